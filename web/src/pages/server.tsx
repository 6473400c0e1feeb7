import Box from '@cloudscape-design/components/box';
import Container from '@cloudscape-design/components/container';
import Header from '@cloudscape-design/components/header';
import KeyValuePairs from '@cloudscape-design/components/key-value-pairs';
import Link from '@cloudscape-design/components/link';
import SpaceBetween from '@cloudscape-design/components/space-between';
import Table from '@cloudscape-design/components/table';
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useParams } from 'react-router-dom';
import { get, type Point, type Replication, type SecondCopy, type Server } from '../api';
import { bytes, caughtUp, duration, isOfNow, latency, localZone, rate, time } from '../format';
import { Chart } from '../parts/chart';
import { Empty, Failure, Status } from '../parts/common';
import { CauseAlert } from '../parts/replication';

const POINTS_EVERY_MS = 5000; // events bring all else

export function ServerPage() {
  const { name = '' } = useParams();
  const navigate = useNavigate();
  const server = useQuery({ queryKey: ['server', name], queryFn: () => get<Server>(`/v1/servers/${encodeURIComponent(name)}`), refetchInterval: POINTS_EVERY_MS });

  if (server.error) return <Failure error={server.error} what={`The server ${name} could not be read`} />;
  if (!server.data) return <Box padding="l">Reading the server…</Box>;
  const { wave, address, owner, application, lifecycle, disks, replication } = server.data;
  const path = `/waves/${encodeURIComponent(wave)}`;

  return (
    <SpaceBetween size="l">
      <Header variant="h1" description={[application, address, owner].filter(Boolean).join(' · ')}>{name}</Header>
      <CauseAlert replication={replication} />
      <Container header={<Header variant="h2" {...(replication?.reported ? { description: `Reported ${time(replication.reported)}` } : {})}>Replication</Header>}>
        {replication ? <SpaceBetween size="l"><Figures replication={replication} /><Chart server={name} /></SpaceBetween> : <Empty>Replication has not started: the wave pushes the agent.</Empty>}
      </Container>
      <Container>
        <KeyValuePairs columns={3} items={[
          { label: 'Wave', value: <Link href={path} onFollow={event => { event.preventDefault(); navigate(path); }}>{wave}</Link> },
          { label: 'Lifecycle', value: <Status state={lifecycle} /> },
          { label: 'Instance', value: server.data.instance ? `${server.data.instance.kind}, ${server.data.instance.state}, door ${server.data.instance.door}` : '–' },
        ]} />
      </Container>
      <Points points={server.data.points ?? []} />
      <Table<Server['disks'][number]> items={disks} trackBy="id" header={<Header variant="h2" counter={`(${disks.length})`}>Disks</Header>} empty={<Empty>No disk is known yet.</Empty>}
        ariaLabels={{ tableLabel: 'Disks', itemSelectionLabel: (_, disk) => disk.name, selectionGroupLabel: 'Disks' }}
        columnDefinitions={[
          { id: 'name', header: 'Disk', isRowHeader: true, cell: disk => disk.name },
          { id: 'size', header: 'Size', cell: disk => bytes(disk.size_bytes) },
          { id: 'id', header: 'Identity', cell: disk => disk.id },
        ]} />
    </SpaceBetween>
  );
}

function Points({ points }: { points: Point[] }) {
  return (
    <Table<Point> items={points} trackBy="id" header={<Header variant="h2" description="The newest, and how each was taken">Recovery points</Header>} empty={<Empty>There is no recovery point yet.</Empty>}
      ariaLabels={{ tableLabel: 'Recovery points', itemSelectionLabel: (_, point) => point.id, selectionGroupLabel: 'Recovery points' }}
      columnDefinitions={[
        { id: 'at', header: `Moment (${localZone})`, isRowHeader: true, cell: point => time(point.at) },
        { id: 'consistency', header: 'Taken', cell: point => point.consistency ?? '–' },
        { id: 'freeze', header: 'Frozen for', cell: point => duration(point.freeze_ms) },
        { id: 'group', header: 'Group', cell: point => point.group ?? '–' },
        { id: 'window', header: 'Window (µs)', cell: point => point.group_window_us ?? '–' },
      ]} />
  );
}

/** Where it is, how old its newest point is, and why it does not go on. */
function secondCopy(copy: SecondCopy) {
  const point = copy.point_age_ms === null ? 'no point yet' : `newest point ${duration(copy.point_age_ms)} old`;
  const behind = copy.lag_ms ? `, ${duration(copy.lag_ms)} behind` : '';
  const left = copy.backlog_bytes ? `, ${bytes(copy.backlog_bytes)} to copy` : '';
  const lacks = copy.pins_missing ? `, lacks ${copy.pins_missing} pinned` : '';
  return `${copy.to}: ${copy.state.toLowerCase()}, ${point}${behind}${left}${lacks}${copy.error ? `: ${copy.error.message}` : ''}`;
}

/** What the agent costs its source. */
function sourceLatency({ without_us, with_us, backoff_bytes_per_s }: NonNullable<Replication['source_latency']>) {
  const back = backoff_bytes_per_s ? `; reading is held back to ${rate(backoff_bytes_per_s)}` : '';
  return `${latency(without_us)} without the agent, ${latency(with_us)} while it reads${back}`;
}

function Figures({ replication }: { replication: Replication }) {
  const now = isOfNow(replication), ofNow = (text: string) => (now ? text : 'unknown');
  const limit = replication.limit_bytes_per_s ? `; limit ${rate(replication.limit_bytes_per_s)}` : '; no limit in force';
  return (
    <KeyValuePairs columns={4} items={[
      { label: 'State', value: <Status state={replication.state} /> },
      { label: 'Caught up in', value: caughtUp(replication) },
      { label: 'Backlog', value: bytes(replication.backlog_bytes) + (now ? '' : ' when last heard of') },
      { label: 'Lag', value: ofNow(duration(replication.lag_ms)) },
      { label: 'Written anew (churn)', value: ofNow(rate(replication.churn_bytes_per_s)) },
      { label: 'Gets across (rate)', value: ofNow(rate(replication.rate_bytes_per_s) + limit) },
      { label: 'Held up by', value: replication.bottleneck ?? (replication.cause ? 'see above' : now && replication.bottleneck === null ? 'nothing' : 'unknown') },
      { label: 'Newest point', value: replication.newest_point_age_ms === undefined ? 'unknown' : replication.newest_point_age_ms === null ? 'none yet' : `${duration(replication.newest_point_age_ms)} old` + (replication.newest_point_unreadable_bytes ? `; lacks ${bytes(replication.newest_point_unreadable_bytes)} that could not be read` : '') },
      ...(replication.copy ? [{ label: 'Second copy', value: secondCopy(replication.copy) }] : []),
      { label: 'Disks', value: bytes(replication.bytes_total) },
      { label: 'Read', value: bytes(replication.bytes_read) },
      { label: 'Sent', value: bytes(replication.bytes_sent) },
      { label: 'Stored', value: bytes(replication.bytes_stored) },
      ...(replication.source_latency ? [{ label: 'An I/O at the source', value: sourceLatency(replication.source_latency) }] : []),
    ]} />
  );
}
