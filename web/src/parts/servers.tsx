import Box from '@cloudscape-design/components/box';
import Header from '@cloudscape-design/components/header';
import ProgressBar from '@cloudscape-design/components/progress-bar';
import SpaceBetween from '@cloudscape-design/components/space-between';
import Table from '@cloudscape-design/components/table';
import { post, type Replication, type Server, type Task } from '../api';
import { bytes, duration } from '../format';
import { Act, Empty, Status } from './common';

interface Props { servers: Server[] | undefined; tasks: Task[]; chosen: string | null; onChoose: (name: string | null) => void }

export function Servers({ servers, tasks, chosen, onChoose }: Props) {
  return (
    <Table<Server>
      items={servers ?? []} loading={!servers} loadingText="Reading the servers" trackBy="name" selectionType="single"
      selectedItems={(servers ?? []).filter(server => server.name === chosen)}
      onSelectionChange={event => onChoose(event.detail.selectedItems[0]?.name ?? null)}
      ariaLabels={{ selectionGroupLabel: 'Show the tasks of one server', itemSelectionLabel: (_, server) => server.name, tableLabel: 'Servers' }}
      header={<Header counter={servers ? `(${servers.length})` : ''} description="Choose one to see its tasks alone">Servers</Header>}
      empty={<Empty>This wave has no server.</Empty>}
      columnDefinitions={[
        { id: 'name', header: 'Server', isRowHeader: true, cell: server => <><Box fontWeight="bold">{server.name}</Box><Box variant="small">{server.application}</Box></> },
        { id: 'address', header: 'Address', cell: server => server.address },
        { id: 'lifecycle', header: 'Lifecycle', cell: server => <Status state={server.lifecycle} /> },
        { id: 'replication', header: 'Replication', minWidth: 260, cell: server => <ReplicationCell replication={server.replication} /> },
        { id: 'instance', header: 'Instance', cell: server => (server.instance ? `${server.instance.kind}, ${server.instance.state}, door ${server.instance.door}` : '–') },
        { id: 'actions', header: 'Actions', cell: server => <ServerActions server={server} tasks={tasks} /> },
      ]}
    />
  );
}

function ReplicationCell({ replication }: { replication: Replication | null }) {
  if (!replication) return <>Not started</>;
  const error = typeof replication.error === 'string' ? replication.error : replication.error?.message;
  const copying = replication.state === 'INITIAL_SYNC' || replication.state === 'RESCAN';

  return (
    <SpaceBetween size="xxs">
      <Status state={replication.state} />
      {copying ? <ProgressBar value={replication.bytes_total ? 100 * replication.bytes_read / replication.bytes_total : 0} ariaLabel="Initial sync"
        additionalInfo={`${bytes(replication.bytes_read)} of ${bytes(replication.bytes_total)} at ${bytes(replication.rate_bytes_per_s)}/s, ${replication.eta_ms === null ? 'time left unknown' : duration(replication.eta_ms) + ' left'}`} /> : null}
      <Box variant="small">newest point {replication.newest_point_age_ms === null ? 'none yet' : duration(replication.newest_point_age_ms) + ' old'} · backlog {bytes(replication.backlog_bytes)} · sent {bytes(replication.bytes_sent)}</Box>
      {error ? <Box color="text-status-error">{error}</Box> : null}
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
      {again ? <Act label="Cut over again" title={`Cut ${server.name} over again?`} variant="primary" act={() => post(`${path}/cutover`)}>
        The source is quiesced and its last changes are sent, as the first time.</Act> : null}
      {!back && !again && !waits('door') ? <>–</> : null}
    </SpaceBetween>
  );
}
