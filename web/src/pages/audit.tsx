import Header from '@cloudscape-design/components/header';
import Table from '@cloudscape-design/components/table';
import { useQuery } from '@tanstack/react-query';
import { get, type AuditEvent, type Page } from '../api';
import { localZone, time } from '../format';
import { Empty, Failure } from '../parts/common';

export function Audit() {
  const events = useQuery({ queryKey: ['audit'], queryFn: () => get<Page<AuditEvent>>('/v1/audit?limit=200&newest=true') });

  if (events.error) return <Failure error={events.error} what="The trail could not be read" />;
  return (
    <Table<AuditEvent> variant="full-page" wrapLines items={events.data?.items ?? []} loading={events.isPending} loadingText="Reading" trackBy="id"
      empty={<Empty>Nothing has happened yet.</Empty>} ariaLabels={{ tableLabel: 'Events' }}
      header={<Header variant="h1" description="Who changed what, and when; the newest 200">Trail</Header>}
      columnDefinitions={[
        { id: 'at', header: `When (${localZone})`, isRowHeader: true, cell: event => time(event.at) },
        { id: 'actor', header: 'Who', cell: event => event.actor },
        { id: 'kind', header: 'What', cell: event => event.kind },
        { id: 'entity', header: 'Of', cell: event => `${event.entity} ${event.entity_id}` },
        { id: 'data', header: 'Details', cell: event => <span className="seen">{JSON.stringify(event.data)}</span> },
      ]} />
  );
}
