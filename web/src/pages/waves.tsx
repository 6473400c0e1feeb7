import Box from '@cloudscape-design/components/box';
import Header from '@cloudscape-design/components/header';
import Link from '@cloudscape-design/components/link';
import SpaceBetween from '@cloudscape-design/components/space-between';
import Table from '@cloudscape-design/components/table';
import { useQuery } from '@tanstack/react-query';
import { useNavigate } from 'react-router-dom';
import { getAll, type Wave } from '../api';
import { timeIn, words } from '../format';
import { Empty, Failure, Status } from '../parts/common';
import { usePages } from '../parts/pages';
import { Trouble } from '../parts/trouble';

const PAGE = 100;

export function Waves() {
  const navigate = useNavigate();
  const waves = useQuery({ queryKey: ['waves'], queryFn: () => getAll<Wave>('/v1/waves') });
  const { rows, pagination } = usePages(waves.data ?? [], PAGE, 'waves');

  if (waves.error) return <Failure error={waves.error} what="The waves could not be read" />;
  return (
    <SpaceBetween size="l"><Trouble /><Table<Wave>
      variant="full-page" loading={waves.isPending} loadingText="Reading the waves" items={rows} pagination={pagination} trackBy="name" ariaLabels={{ tableLabel: 'Waves' }}
      header={<Header variant="h1" counter={waves.data ? `(${waves.data.length})` : ''} description="Servers that share one cutover date">Waves</Header>}
      empty={<Empty>No wave yet. Import one: <code>slipway import servers.csv</code></Empty>}
      columnDefinitions={[
        { id: 'name', header: 'Wave', isRowHeader: true, cell: wave =>
          <Link href={`/waves/${encodeURIComponent(wave.name)}`} onFollow={event => { event.preventDefault(); navigate(`/waves/${encodeURIComponent(wave.name)}`); }}>{wave.title || wave.name}</Link> },
        { id: 'stage', header: 'Stage', cell: wave => words(wave.stage) },
        { id: 'health', header: 'Health', cell: wave => <Status state={wave.health} /> },
        { id: 'window', header: 'Cutover window', cell: wave => (wave.window ? timeIn(wave.window.opens, wave.window.time_zone) : 'Not set') },
        { id: 'servers', header: 'Servers', cell: wave => wave.server_count },
        { id: 'lifecycle', header: 'Where they are', cell: wave =>
          <Box>{Object.entries(wave.lifecycle).map(([state, count]) => `${count} ${words(state).toLowerCase()}`).join(', ') || '–'}</Box> },
      ]}
    /></SpaceBetween>
  );
}
