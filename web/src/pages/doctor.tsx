import Button from '@cloudscape-design/components/button';
import Header from '@cloudscape-design/components/header';
import StatusIndicator from '@cloudscape-design/components/status-indicator';
import Table from '@cloudscape-design/components/table';
import { useQuery } from '@tanstack/react-query';
import { get, type Check } from '../api';
import { words } from '../format';
import { Empty, Failure } from '../parts/common';

export function Doctor() {
  const doctor = useQuery({ queryKey: ['doctor'], queryFn: () => get<{ passed: boolean; checks: Check[] }>('/v1/doctor') });

  if (doctor.error) return <Failure error={doctor.error} what="The checks could not be run" />;
  return (
    <Table<Check> variant="full-page" wrapLines items={doctor.data?.checks ?? []} loading={doctor.isFetching} loadingText="Looking" empty={<Empty>Nothing was checked.</Empty>}
      header={<Header variant="h1" description="What must hold before a wave starts" actions={<Button iconName="refresh" onClick={() => void doctor.refetch()}>Look again</Button>}>Doctor</Header>}
      ariaLabels={{ tableLabel: 'Checks' }}
      columnDefinitions={[
        { id: 'holds', header: 'Holds', cell: check => <StatusIndicator type={check.passed ? 'success' : 'error'}>{check.passed ? 'Yes' : 'No'}</StatusIndicator> },
        { id: 'phase', header: 'About', cell: check => words(check.phase) },
        { id: 'title', header: 'Check', isRowHeader: true, cell: check => check.title },
        { id: 'evidence', header: 'Seen', cell: check => check.evidence },
        { id: 'advice', header: 'What to do', cell: check => (check.passed ? '–' : check.advice ?? '–') },
      ]} />
  );
}
