// What the live feed has told of each server since the console was opened, for the chart: half an hour at one report a second.
import { useSyncExternalStore } from 'react';
import type { Replication } from './api';

const most = 1800;

export interface Series { at: number[]; backlog: number[]; churn: (number | null)[]; rate: (number | null)[] }

const kept = new Map<string, Series>();
const listeners = new Set<() => void>();
const last = <T,>(list: T[]) => list.slice(-most);

export function remember(news: Replication): void {
  if (!news.server) return;
  const was = kept.get(news.server) ?? { at: [], backlog: [], churn: [], rate: [] };
  kept.set(news.server, {
    at: last([...was.at, Date.now() / 1000]), backlog: last([...was.backlog, news.backlog_bytes]),
    churn: last([...was.churn, news.churn_bytes_per_s ?? null]), rate: last([...was.rate, news.rate_bytes_per_s]),
  });
  for (const listener of listeners) listener();
}

const listen = (listener: () => void) => { listeners.add(listener); return () => { listeners.delete(listener); }; };

export const useHistory = (server: string): Series | undefined => useSyncExternalStore(listen, () => kept.get(server));
