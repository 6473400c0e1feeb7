// The client of the factory's HTTP API: types as docs/architecture.md gives them, one way to fetch, one way to fail.

export type TaskState = 'PENDING' | 'READY' | 'RUNNING' | 'WAITING' | 'SUCCEEDED' | 'FAILED' | 'SKIPPED' | 'CANCELLED';

export interface Me { name: string; role: 'operator' | 'viewer'; admin?: boolean; csrf: string }
export interface Page<T> { items: T[]; next: string | null }
export interface Window { opens: string; closes: string; time_zone: string }
export interface Wave {
  name: string; title: string | null; stage: string; health: string; window: Window | null; run: string | number | null;
  settings: Record<string, unknown>; server_count: number; lifecycle: Record<string, number>; version: number; created: string;
}
export interface Cause { kind: string; severity: string; text: string; advice: string }
export interface SecondCopy {
  to: string; state: string; point: string | null; point_age_ms: number | null; lag_ms: number; backlog_bytes: number; pins_missing: number;
  error: { kind: string; message: string } | null;
}
export interface Replication {
  server?: string; state: string; connected?: boolean; bytes_total: number; bytes_read: number; bytes_sent: number; bytes_stored: number; backlog_bytes: number;
  lag_ms: number | null; eta_ms: number | null; eta?: 'never' | null; rate_bytes_per_s: number | null; churn_bytes_per_s?: number | null; limit_bytes_per_s?: number;
  bottleneck?: string | null; newest_point: string | null; newest_point_at: string | null; newest_point_age_ms: number | null;
  /** What an I/O of the source's own takes; 0: not known, or nothing is held back. */
  source_latency?: { now_us: number; without_us: number; with_us: number; backoff_bytes_per_s: number };
  copy?: SecondCopy | null; unreadable_bytes?: number; newest_point_unreadable_bytes?: number | null;
  error: string | { kind?: string; message?: string } | null; cause?: Cause | null; reported?: string;
}
/** One of the newest recovery points, and how it was taken; group_window_us: in which the instant of all of its group's points lies. */
export interface Point { id: string; at: string; consistency: string | null; freeze_ms: number | null; group: string | null; group_window_us: number | null }
export interface Server {
  name: string; wave: string; application: string | null; owner: string | null; address: string; port: number; lifecycle: string;
  attributes: Record<string, string>; disks: { id: string; name: string; size_bytes: number }[]; replication: Replication | null;
  /** Of one server that is read alone. */
  points?: Point[];
  instance: { name: string; kind: string; door: string; state: string } | null; version: number; facts?: Record<string, unknown> | null;
}
export interface Evidence { at: string; name: string; passed: boolean; evidence: string }
export interface Artifact { name: string; media_type: string; size_bytes: number; url?: string }
export interface Task {
  id: string | number; run: string | number; name: string; title: string; phase: string; step: string | null; server: string | null; state: TaskState;
  waits_for: { kind: string; what: string; until: string | null } | null; attempt: number; started: string | null; finished: string | null;
  progress: { done: number; total: number; unit: string; note: string } | null; error: { kind: string; message: string } | null;
  evidence_count: number; evidence_failed: number; evidence?: Evidence[]; artifacts?: Artifact[]; result?: Record<string, unknown> | null;
}
export interface Run { id: string | number; template: string; title: string; wave: string; server: string | null; state: string; started: string; finished: string | null; tasks: Task[] }
export interface Check { phase: string; name: string; title: string; passed: boolean; evidence: string; advice: string | null }
export interface AuditEvent { id: number; at: string; actor: string; kind: string; wave: string | null; entity: string; entity_id: string; data: Record<string, unknown> }

export class Problem extends Error {
  constructor(readonly status: number, readonly kind: string, title: string, detail: string) {
    super(detail || title);
    this.name = 'Problem';
  }
}

let csrf = '';
let heard = Date.now();
/** The factory was heard just now: an answer, or anything on the live feed. */
export const hear = () => { heard = Date.now(); };
export const heardAt = () => heard;

const READ_MS = 60_000, CHANGE_MS = 120_000;
const silent = {
  read: 'The factory does not answer. Is `slipway serve` running, and is this network connected to it?',
  change: 'The factory did not answer, so it may have been done or not. Look at what is shown once the factory answers again, before you do it a second time.',
};
export const rememberCsrf = (token: string) => { csrf = token; };

async function problemOf(response: Response): Promise<Problem> {
  const body = await response.json().catch(() => null) as Record<string, string> | null;
  return new Problem(response.status, body?.kind ?? 'unknown', body?.title ?? response.statusText, body?.detail ?? '');
}

export async function call<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<T> {
  const sent: Record<string, string> = { Accept: 'application/json', ...headers };
  if (body !== undefined && !sent['Content-Type']) sent['Content-Type'] = 'application/json';
  if (method !== 'GET') sent['X-CSRF-Token'] = csrf;
  try {
    const response = await fetch(path, { method, headers: sent, credentials: 'same-origin', signal: AbortSignal.timeout(method === 'GET' ? READ_MS : CHANGE_MS),
      body: body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body) });
    if (!response.ok) throw await problemOf(response);
    const answer = (response.status === 204 ? undefined : await response.json()) as T;
    hear();
    return answer;
  } catch (error) {
    throw error instanceof Problem ? error : new Problem(0, 'unreachable', 'The factory does not answer', method === 'GET' ? silent.read : silent.change);
  }
}

export const get = <T,>(path: string) => call<T>('GET', path);
export const post = <T,>(path: string, body: unknown = {}) => call<T>('POST', path, body);

const LIST_MOST = 20_000;

/** All pages of a list. One that is too long to be shown is an error: a part of it would look like all of it. */
export async function getAll<T>(path: string): Promise<T[]> {
  const items: T[] = [];
  let next: string | null = '';
  while (next !== null) {
    if (items.length >= LIST_MOST) throw new Problem(0, 'limit', 'Too long', `There are more than ${LIST_MOST} entries, more than the console shows: use the command line (\`slipway\`).`);
    const page: Page<T> = await get(path + (path.includes('?') ? '&' : '?') + 'limit=200' + (next ? '&page=' + encodeURIComponent(next) : ''));
    items.push(...page.items);
    next = page.next;
  }
  return items;
}
