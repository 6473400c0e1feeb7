// Numbers, times and states as a person reads them.
import type { Replication } from './api';
import type { StatusIndicatorProps } from '@cloudscape-design/components/status-indicator';

const links = ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s'];
const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function bytes(count: number | null | undefined): string {
  if (count === null || count === undefined || !Number.isFinite(count)) return '–';
  let value = count, unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit++; }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Bytes a second as links are written: bits, in powers of 1000. */
export function rate(bytesPerS: number | null | undefined): string {
  if (bytesPerS === null || bytesPerS === undefined || !Number.isFinite(bytesPerS)) return 'unknown';
  let value = bytesPerS * 8, unit = 0;
  while (value >= 1000 && unit < links.length - 1) { value /= 1000; unit++; }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${links[unit]}`;
}

/** Whether the figures are of now: not where agent or replicator is away, for then they are of whenever it was heard last. */
export const isOfNow = (replication: Replication) => replication.connected !== false && replication.cause?.kind !== 'replicator_silent';

const still = ['STALLED', 'STOPPED', 'DISCONNECTED'];
/** When a server's copy has caught up with its disks. */
export function caughtUp(replication: Pick<Replication, 'state' | 'eta' | 'eta_ms'>): string {
  if (replication.eta === 'never') return 'never';
  if (typeof replication.eta_ms !== 'number' || still.includes(replication.state)) return 'unknown';
  return replication.state === 'CONTINUOUS' || replication.eta_ms === 0 ? 'caught up' : duration(replication.eta_ms);
}

const severities = ['', 'info', 'warning', 'error'];
/** How bad it is, the worse the higher; a severity that nobody knows is as bad as can be. */
export function badness(replication: Replication | null): number {
  const at = severities.indexOf(replication?.cause?.severity ?? '');
  return at < 0 ? severities.length : at;
}

type Ranked = { name: string; replication: Replication | null };
const lagStep = (replication: Replication | null) => (replication?.cause ? Math.floor(Math.log2(1 + (replication.lag_ms ?? 0) / 60_000)) : 0);
/** What does not keep up first. A lag counts in doublings of a minute, and only there: it differs with each report, and rows would never stand still. */
export const worstFirst = (a: Ranked, b: Ranked) => badness(b.replication) - badness(a.replication) || lagStep(b.replication) - lagStep(a.replication) || a.name.localeCompare(b.name);

export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return '–';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = Math.round(ms / 1000);
  if (s < 120) return `${(ms / 1000).toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return s < 172800 ? `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min` : `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

/** Microseconds as milliseconds; 0 is not known. */
export const latency = (us: number | null | undefined) => (us ? `${(us / 1000).toFixed(2)} ms` : 'unknown');

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

export const time = (text: string | null | undefined) => (!text ? '–' : Number.isNaN(Date.parse(text)) ? text : clock.format(new Date(text)));
export const localZone = zone;

/** The time in the zone that a wave's window was agreed in. */
export function timeIn(text: string, timeZone: string): string {
  try {
    return new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short', timeZone }).format(new Date(text)) + ` (${timeZone})`;
  } catch {
    return time(text);
  }
}

const kinds: Record<string, StatusIndicatorProps.Type> = {
  SUCCEEDED: 'success', FAILED: 'error', RUNNING: 'in-progress', WAITING: 'info', PENDING: 'pending', READY: 'pending', SKIPPED: 'stopped', CANCELLED: 'stopped',
  ok: 'success', failed: 'error', attention: 'warning', waiting: 'info', idle: 'pending',
  CONTINUOUS: 'success', INITIAL_SYNC: 'in-progress', INITIATING: 'in-progress', BACKLOG: 'warning', CREATING_SNAPSHOT: 'in-progress', PAUSED: 'stopped',
  RESCAN: 'in-progress', STALLED: 'error', STOPPED: 'stopped', DISCONNECTED: 'stopped',
  NOT_READY: 'pending', READY_FOR_TEST: 'info', TESTING: 'in-progress', READY_FOR_CUTOVER: 'info', CUTTING_OVER: 'in-progress', CUTOVER: 'success', ARCHIVED: 'success',
};

/** An unknown state is never shown as good. */
export const statusType = (state: string): StatusIndicatorProps.Type => kinds[state] ?? 'warning';
export const words = (state: string) => state.replaceAll('_', ' ').toLowerCase().replace(/^./, first => first.toUpperCase());
