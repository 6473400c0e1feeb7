import { useRef, useState } from 'react';
import Box from '@cloudscape-design/components/box';
import Header from '@cloudscape-design/components/header';
import Link from '@cloudscape-design/components/link';
import ProgressBar from '@cloudscape-design/components/progress-bar';
import SpaceBetween from '@cloudscape-design/components/space-between';
import Table, { type TableProps } from '@cloudscape-design/components/table';
import TextFilter from '@cloudscape-design/components/text-filter';
import { useNavigate } from 'react-router-dom';
import { post, type Replication, type Server, type Task } from '../api';
import { bytes, caughtUp, duration, isOfNow, rate, worstFirst } from '../format';
import { Act, Empty, Status } from './common';
import { usePages } from './pages';
import { ReplicationState } from './replication';

interface Props { servers: Server[] | undefined; tasks: Task[]; chosen: string | null; onChoose: (name: string | null) => void }

type Column = TableProps.ColumnDefinition<Server>;

const by = (pick: (replication: Replication) => number | null | undefined) => {
  const amount = (server: Server) => (server.replication ? pick(server.replication) ?? Infinity : -1); // what is not known may be as bad as can be
  return (a: Server, b: Server) => (amount(a) === amount(b) ? 0 : amount(a) - amount(b)) || a.name.localeCompare(b.name);
};
const untilCaughtUp = (replication: Replication) => (replication.eta === 'never' ? Infinity : replication.eta_ms);

function columns(tasks: Task[], open: (name: string) => void): Column[] {
  return [
    { id: 'name', header: 'Server', isRowHeader: true, minWidth: 110, sortingComparator: (a, b) => a.name.localeCompare(b.name), cell: server => <>
      <Link href={`/servers/${encodeURIComponent(server.name)}`} onFollow={event => { event.preventDefault(); open(server.name); }}>{server.name}</Link>
      <Box variant="small">{[server.application, server.address].filter(Boolean).join(' · ')}</Box></> },
    { id: 'lifecycle', header: 'Lifecycle', minWidth: 150, cell: server => <><Status state={server.lifecycle} />
      {server.instance ? <Box variant="small">{server.instance.kind} instance, {server.instance.state}, door {server.instance.door}</Box> : null}</> },
    { id: 'replication', header: 'Replication', minWidth: 280, sortingComparator: worstFirst, cell: server => <ReplicationCell replication={server.replication} /> },
    { id: 'eta', header: 'Caught up in', minWidth: 110, sortingComparator: by(untilCaughtUp), cell: server => (server.replication ? caughtUp(server.replication) : '–') },
    { id: 'backlog', header: 'Backlog', minWidth: 110, sortingComparator: by(replication => replication.backlog_bytes), cell: server => bytes(server.replication?.backlog_bytes) },
    { id: 'churn', header: 'Written anew', minWidth: 130, sortingComparator: by(replication => replication.churn_bytes_per_s), cell: server => (server.replication && !isOfNow(server.replication) ? 'unknown' : server.replication
      ? <>{rate(server.replication.churn_bytes_per_s)}<Box variant="small">{rate(server.replication.rate_bytes_per_s)} get across</Box></> : '–') },
    { id: 'point', header: 'Newest point', minWidth: 110, sortingComparator: by(replication => replication.newest_point_age_ms), cell: server => (server.replication ? server.replication.newest_point_age_ms === null ? 'none yet' : `${duration(server.replication.newest_point_age_ms)} old` : '–') },
    { id: 'actions', header: 'Actions', cell: server => <ServerActions server={server} tasks={tasks} /> },
  ];
}

const PAGE = 50, STILL_MS = 3000;
const fits = (server: Server, words: string) => [server.name, server.address, server.application, server.owner].some(text => text?.toLowerCase().includes(words.trim().toLowerCase()));

/** The order of before, as long as somebody points at the rows or types: no row moves away under a click, and none takes another's place. */
function useStill(sorted: Server[], how: string) {
  const moved = useRef(0), was = useRef({ how, places: new Map<string, number>() });
  const still = was.current.how === how && Date.now() - moved.current < STILL_MS, places = was.current.places;
  const ordered = still ? sorted.sort((a, b) => (places.get(a.name) ?? places.size) - (places.get(b.name) ?? places.size)) : sorted;

  was.current = { how, places: new Map(ordered.map((server, place) => [server.name, place])) };
  return { ordered, onMove: () => { moved.current = Date.now(); } };
}

/** The worst first, unless somebody sorts otherwise. */
export function Servers({ servers, tasks, chosen, onChoose }: Props) {
  const navigate = useNavigate();
  const [words, setWords] = useState('');
  const [sorting, setSorting] = useState<{ id: string; descending: boolean }>({ id: 'replication', descending: false });
  const definitions = columns(tasks, name => navigate(`/servers/${encodeURIComponent(name)}`));
  const column = definitions.find(definition => definition.id === sorting.id);
  const found = (servers ?? []).filter(server => fits(server, words)).sort(column?.sortingComparator ?? worstFirst);
  const { ordered, onMove } = useStill(sorting.descending ? found.reverse() : found, `${sorting.id} ${sorting.descending} ${words}`);
  const { rows, pagination } = usePages(ordered, PAGE, 'servers');
  const all = servers?.length ?? 0;

  return (
    <div onPointerMove={onMove} onKeyDown={onMove}><Table<Server>
      items={rows} pagination={pagination} loading={!servers} loadingText="Reading the servers" trackBy="name" selectionType="single" wrapLines
      selectedItems={(servers ?? []).filter(server => server.name === chosen)}
      onSelectionChange={event => onChoose(event.detail.selectedItems[0]?.name ?? null)}
      {...(column ? { sortingColumn: column } : {})} sortingDescending={sorting.descending}
      onSortingChange={event => setSorting({ id: (event.detail.sortingColumn as Column).id ?? 'replication', descending: event.detail.isDescending ?? false })}
      ariaLabels={{ selectionGroupLabel: 'Show the tasks of one server', itemSelectionLabel: (_, server) => server.name, tableLabel: 'Servers' }}
      filter={all > PAGE || words ? <TextFilter filteringText={words} onChange={event => setWords(event.detail.filteringText)} filteringPlaceholder="Find a server"
        filteringAriaLabel="Find a server by name, address, application or owner" filteringClearAriaLabel="Clear" countText={words ? `${ordered.length} of ${all}` : ''} /> : null}
      header={<Header counter={servers ? `(${all})` : ''} description="What does not keep up comes first. Choose one to see its tasks alone">Servers</Header>}
      empty={<Empty>{words ? 'No server fits.' : 'This wave has no server.'}</Empty>} columnDefinitions={definitions}
    /></div>
  );
}

function ReplicationCell({ replication }: { replication: Replication | null }) {
  if (!replication) return <>Not started</>;
  const copying = replication.state === 'INITIAL_SYNC' || replication.state === 'RESCAN';

  return (
    <SpaceBetween size="xxs">
      <ReplicationState replication={replication} />
      {copying ? <ProgressBar value={replication.bytes_total ? 100 * Math.min(1, replication.bytes_read / replication.bytes_total) : 0} ariaLabel="Initial sync"
        additionalInfo={`${bytes(replication.bytes_read)} of ${bytes(replication.bytes_total)}`} /> : null}
    </SpaceBetween>
  );
}

function ServerActions({ server, tasks }: { server: Server; tasks: Task[] }) {
  const path = `/v1/servers/${encodeURIComponent(server.name)}`;
  const waits = (name: string) => tasks.some(task => task.server === server.name && task.name === name && task.state === 'WAITING');
  const opened = server.lifecycle === 'CUTOVER';
  const back = server.lifecycle === 'CUTTING_OVER' || opened;
  // After a way back the server waits to be cut over again.
  const again = server.lifecycle === 'READY_FOR_CUTOVER' && tasks.some(task => task.server === server.name && task.phase === 'cutover' && task.state === 'WAITING');

  return (
    <SpaceBetween direction="horizontal" size="xs">
      {waits('door') ? <Act label="Open the door" title={`Open ${server.name} to its clients?`} variant="primary" act={() => post(`${path}/open`)}>
        From then on clients write to the copy. Going back after that loses what they wrote.</Act> : null}
      {back ? <Act label="Take back" title={`Take ${server.name} back to its source?`} act={typed => post(`${path}/back`, typed ? { confirm: typed } : {})}>
        {opened ? 'The copy is open. The factory will say what has been written since and would be lost, and asks for words before it goes.'
          : 'The copy is stopped and the source serves again. Its door is still closed, so nothing is lost.'}</Act> : null}
      {opened ? <Act label="Bring changes home" title={`Take ${server.name} back with what was written since?`} act={() => post(`${path}/back`, { bring_changes: true })}>
        What the copy has written is put onto the source’s disks, then the source serves again. The copy serves until the source is known to be ready for it; from then on nobody does
        until the disks are restored and the source has booted.</Act> : null}
      {again ? <Act label="Cut over again" title={`Cut ${server.name} over again?`} variant="primary" act={() => post(`${path}/cutover`)}>
        The source is quiesced and its last changes are sent, as the first time.</Act> : null}
      {!back && !again && !waits('door') ? <>–</> : null}
    </SpaceBetween>
  );
}
