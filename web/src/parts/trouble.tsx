import Header from '@cloudscape-design/components/header';
import Link from '@cloudscape-design/components/link';
import Table from '@cloudscape-design/components/table';
import { useQuery } from '@tanstack/react-query';
import { useNavigate } from 'react-router-dom';
import { getAll, type Server } from '../api';
import { caughtUp, duration, worstFirst } from '../format';
import { Empty, Failure } from './common';
import { usePages } from './pages';
import { ReplicationState } from './replication';

const EVERY_MS = 5000, PAGE = 10;

/** What does not keep up, of all waves, worst first: nobody looks into forty waves to find it. */
export function Trouble() {
  const navigate = useNavigate();
  const servers = useQuery({ queryKey: ['trouble'], queryFn: () => getAll<Server>('/v1/servers?trouble=true'), refetchInterval: EVERY_MS });
  const { rows, pagination } = usePages([...(servers.data ?? [])].sort(worstFirst), PAGE, 'servers that do not keep up');
  const to = (href: string, text: string) => <Link href={href} onFollow={event => { event.preventDefault(); navigate(href); }}>{text}</Link>;

  if (servers.error) return <Failure error={servers.error} what="Whether every replication keeps up is not known" />;
  return (
    <Table<Server> items={rows} pagination={pagination} loading={servers.isPending} loadingText="Reading the servers" trackBy="name" wrapLines contentDensity="compact"
      ariaLabels={{ tableLabel: 'Replication that does not keep up' }} empty={<Empty>None is known of.</Empty>}
      header={<Header variant="h2" counter={servers.data ? `(${servers.data.length})` : ''} description="Servers of all waves, the worst first">Replication that does not keep up</Header>}
      columnDefinitions={[
        { id: 'name', header: 'Server', isRowHeader: true, minWidth: 110, cell: server => to(`/servers/${encodeURIComponent(server.name)}`, server.name) },
        { id: 'wave', header: 'Wave', minWidth: 90, cell: server => to(`/waves/${encodeURIComponent(server.wave)}`, server.wave) },
        { id: 'replication', header: 'Replication', minWidth: 280, cell: server => <ReplicationState replication={server.replication} /> },
        { id: 'eta', header: 'Caught up in', minWidth: 100, cell: server => (server.replication ? caughtUp(server.replication) : '–') },
        { id: 'point', header: 'Newest point', minWidth: 100, cell: server => (typeof server.replication?.newest_point_age_ms === 'number' ? `${duration(server.replication.newest_point_age_ms)} old` : 'none yet') },
      ]} />
  );
}
