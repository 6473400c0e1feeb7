// What the live feed has told of each server since the console was opened, for the chart: half an hour at one report a second, less of a large fleet.
import { useSyncExternalStore } from 'react';
import type { Replication } from './api';

const MOST = 1800, MOST_OF_ALL = 400_000;

export interface Series { at: number[]; backlog: number[]; churn: (number | null)[]; rate: (number | null)[] }

const kept = new Map<string, Series>();
const listeners = new Set<() => void>();

export function remember(news: Replication[]): void {
  for (const said of news) {
    const was = said.server ? kept.get(said.server) ?? { at: [], backlog: [], churn: [], rate: [] } : undefined;
    if (!was || !said.server) continue;
    was.at.push(Date.now() / 1000);
    was.backlog.push(said.backlog_bytes);
    was.churn.push(said.churn_bytes_per_s ?? null);
    was.rate.push(said.rate_bytes_per_s);
    if (was.at.length > 1.1 * Math.min(MOST, MOST_OF_ALL / kept.size))
      for (const list of [was.at, was.backlog, was.churn, was.rate]) list.splice(0, Math.ceil(list.length / 10));
    kept.set(said.server, { ...was }); // another object: the chart sees that there is more
  }
  for (const listener of listeners) listener();
}

const listen = (listener: () => void) => { listeners.add(listener); return () => { listeners.delete(listener); }; };

export const useHistory = (server: string): Series | undefined => useSyncExternalStore(listen, () => kept.get(server));
