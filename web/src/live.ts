// One EventSource for the whole console. Stored events make the queries that they concern read again; `replication` events are
// put straight into the servers that are shown.
import { useEffect, useState } from 'react';
import type { QueryClient } from '@tanstack/react-query';
import type { AuditEvent, Replication, Server } from './api';
import { remember } from './history';

export function concerned(event: Pick<AuditEvent, 'entity' | 'wave'>): string[][] {
  const keys = [['audit']];
  if (['task', 'run', 'attempt', 'evidence'].includes(event.entity)) keys.push(['run'], ['task'], ['waves'], ['wave'], ['servers']);
  else if (event.entity === 'wave') keys.push(['waves'], ['wave']);
  else if (event.entity === 'server') keys.push(['servers'], ['server'], ['wave'], ['waves']);
  else if (['peer', 'runner', 'replicator', 'target', 'settings'].includes(event.entity)) keys.push(['doctor']);
  return keys;
}

export function mergeReplication(servers: Server[] | undefined, news: Replication): Server[] | undefined {
  return servers?.map(server => (server.name === news.server ? { ...server, replication: { ...server.replication, ...news } } : server));
}

/** Connects; returns whether the stream is up. Reads are gathered for 300 ms so that a burst of events costs one read a query. */
export function useLive(client: QueryClient, on: boolean): boolean {
  const [up, setUp] = useState(false);

  useEffect(() => {
    if (!on) return;
    const waiting = new Map<string, string[]>();
    let timer: number | undefined;
    const source = new EventSource('/v1/events');
    const flush = () => {
      timer = undefined;
      for (const key of waiting.values()) void client.invalidateQueries({ queryKey: key });
      waiting.clear();
    };
    const stored = (message: MessageEvent<string>) => {
      for (const key of concerned(JSON.parse(message.data) as AuditEvent)) waiting.set(key.join('/'), key);
      timer ??= window.setTimeout(flush, 300);
    };
    const replication = (message: MessageEvent<string>) => {
      const news = JSON.parse(message.data) as Replication;
      client.setQueriesData<Server[]>({ queryKey: ['servers'] }, servers => mergeReplication(servers, news));
      if (news.server) client.setQueryData<Server>(['server', news.server], server => server && { ...server, replication: { ...server.replication, ...news } });
      remember(news);
    };
    source.onopen = () => { setUp(true); void client.invalidateQueries(); };
    source.onerror = () => setUp(false);
    source.addEventListener('replication', replication as EventListener);
    source.addEventListener('message', stored as EventListener);
    source.addEventListener('change', stored as EventListener);
    for (const kind of eventKinds) source.addEventListener(kind, stored as EventListener);
    return () => { source.close(); window.clearTimeout(timer); };
  }, [client, on]);
  return up;
}

// EventSource delivers an event only to listeners of its name; these are the names that change what the pages show.
const of = (entity: string, ...verbs: string[]) => verbs.map(verb => `${entity}.${verb}`);
export const eventKinds = [
  'refused',
  ...of('wave', 'created', 'updated', 'window_set', 'moved', 'stage_changed', 'measured'),
  ...of('server', 'created', 'updated', 'facts', 'instance', 'moved', 'replication', 'trusted', 'distrusted'),
  ...of('run', 'started', 'finished', 'cancelled'),
  ...of('task', 'readied', 'waited', 'started', 'progressed', 'succeeded', 'failed', 'retried', 'backed_off', 'lost', 'skipped', 'cancelled', 'decided', 'reset',
    'artifact_added', 'told_to_stop', 'lifecycle_kept'),
  ...of('peer', 'enrolled', 'revoked'), ...of('credential', 'set', 'removed'), ...of('enrolment', 'created'),
  ...of('user', 'created', 'removed', 'signed_in', 'signed_out', 'password_set'), ...of('token', 'created', 'removed'),
];
