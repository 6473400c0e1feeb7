// One EventSource for the whole console. Stored events make the queries that they concern read again; `replication` events are
// put straight into the servers that are shown.
import { useEffect, useState } from 'react';
import type { QueryClient } from '@tanstack/react-query';
import { hear, type AuditEvent, type Replication, type Server } from './api';
import { remember } from './history';

const GATHERED_MS = 300;     // events that come together cost one read a query
const NEWS_MS = 1000;        // what is said of servers is shown so often: a fleet says hundreds of things a second
const LOOK_MS = 5000;
const SILENCE_MS = 40_000;   // a connection that a sleep or a firewall broke is open for ever, as a browser sees it: it is made again
const AGAIN_MS = 3000;

export function concerned(event: Pick<AuditEvent, 'entity' | 'wave'>): string[][] {
  const keys = [['audit']];
  if (['task', 'run', 'attempt', 'evidence'].includes(event.entity)) keys.push(['run'], ['task'], ['waves'], ['wave'], ['servers']);
  else if (event.entity === 'wave') keys.push(['waves'], ['wave']);
  else if (event.entity === 'server') keys.push(['servers'], ['server'], ['wave'], ['waves']);
  else if (['peer', 'runner', 'replicator', 'target', 'setting'].includes(event.entity)) keys.push(['doctor']);
  return keys;
}

/** What is sent of a server is all that is known of it now: nothing of before stays. */
export function mergeReplication(servers: Server[] | undefined, news: Map<string, Replication>): Server[] | undefined {
  return servers?.map(server => ({ ...server, replication: news.get(server.name) ?? server.replication }));
}

/** Reads again what events concern. What is being read is read to its end first, or a steady stream of events would never let one end; and then again, for it may
 * have been read too early. As long as the reading takes twice over nothing is read. */
function reader(client: QueryClient) {
  const waiting = new Map<string, string[]>();
  let timer: number | undefined, stopped = false;
  const plan = (ms: number) => { timer ??= window.setTimeout(() => void flush(), ms); };
  const flush = async () => {
    const began = performance.now(), now = [...waiting].filter(([, key]) => client.isFetching({ queryKey: key }) === 0);
    for (const [name] of now) waiting.delete(name);
    await Promise.allSettled(now.map(([, queryKey]) => client.invalidateQueries({ queryKey })));
    timer = undefined;
    if (waiting.size && !stopped) plan(Math.max(GATHERED_MS, 2 * (performance.now() - began)));
  };
  return {
    want: (keys: string[][]) => { for (const key of keys) waiting.set(key.join('/'), key); plan(GATHERED_MS); },
    stop: () => { stopped = true; window.clearTimeout(timer); },
  };
}

/** Connects; returns whether the stream is up. */
export function useLive(client: QueryClient, on: boolean): boolean {
  const [up, setUp] = useState(false);

  useEffect(() => {
    if (!on) return;
    const reads = reader(client), news = new Map<string, Replication>();
    let source: EventSource, heard = Date.now(), again: number | undefined;

    const listen = (message: () => void) => { heard = Date.now(); hear(); message(); };
    const stored = (message: MessageEvent<string>) => listen(() => reads.want(concerned(JSON.parse(message.data) as AuditEvent)));
    const replication = (message: MessageEvent<string>) => listen(() => {
      const said = JSON.parse(message.data) as Replication;
      if (said.server) news.set(said.server, said);
    });
    const show = () => {
      if (!news.size) return;
      client.setQueriesData<Server[]>({ queryKey: ['servers'] }, servers => mergeReplication(servers, news));
      for (const [name, said] of news) client.setQueryData<Server>(['server', name], server => server && { ...server, replication: said });
      remember([...news.values()]);
      news.clear();
    };
    const connect = () => {
      again = undefined;
      heard = Date.now();
      source?.close();
      source = new EventSource('/v1/events');
      source.onopen = () => listen(() => { setUp(true); void client.invalidateQueries(); });
      source.onerror = () => {
        setUp(false);
        if (source.readyState !== EventSource.CLOSED) return; // it connects again by itself
        // It was refused, and a browser does not ask again: the factory is starting, or nobody is signed in any more.
        void client.invalidateQueries({ queryKey: ['me'] });
        again ??= window.setTimeout(connect, AGAIN_MS);
      };
      source.addEventListener('replication', replication as EventListener);
      for (const kind of ['message', 'change', ...eventKinds]) source.addEventListener(kind, stored as EventListener);
    };
    const look = () => {
      if (again === undefined && Date.now() - heard > SILENCE_MS) connect();
      else setUp(source.readyState === EventSource.OPEN);
    };
    connect();
    const looks = window.setInterval(look, LOOK_MS), shows = window.setInterval(show, NEWS_MS);
    return () => { source.close(); reads.stop(); window.clearTimeout(again); window.clearInterval(looks); window.clearInterval(shows); };
  }, [client, on]);
  return up;
}

// EventSource delivers an event only to listeners of its name; these are the names that change what the pages show.
const of = (entity: string, ...verbs: string[]) => verbs.map(verb => `${entity}.${verb}`);
export const eventKinds = [
  'refused',
  ...of('wave', 'created', 'updated', 'window_set', 'moved', 'stage_changed', 'measured'),
  ...of('server', 'created', 'updated', 'facts', 'instance', 'moved', 'moving', 'staying', 'placed', 'copied', 'copy_ended', 'paused', 'resumed', 'replication', 'trusted', 'distrusted'),
  ...of('run', 'started', 'finished', 'cancelled'),
  ...of('task', 'readied', 'waited', 'started', 'progressed', 'succeeded', 'failed', 'retried', 'backed_off', 'lost', 'skipped', 'cancelled', 'decided', 'reset',
    'artifact_added', 'told_to_stop', 'lifecycle_kept'),
  ...of('peer', 'enrolled', 'revoked'), ...of('replicator', 'drained', 'undrained'), ...of('setting', 'updated'),
  ...of('credential', 'set', 'removed'), ...of('enrolment', 'created'), ...of('application', 'created'), ...of('backup', 'made'), ...of('factory', 'restored'),
  ...of('user', 'created', 'removed', 'signed_in', 'signed_out', 'password_set', 'sign_in_limited'), ...of('token', 'created', 'removed'),
];
