import Alert from '@cloudscape-design/components/alert';
import Box from '@cloudscape-design/components/box';
import type { Replication } from '../api';
import { Status } from './common';

const types = { info: 'info', warning: 'warning', error: 'error' } as const;
const colours = { info: 'text-status-info', warning: 'text-status-warning', error: 'text-status-error' } as const;
const known = (severity: string): keyof typeof types => (severity === 'info' || severity === 'warning' ? severity : 'error');

/** Where a server's replication stands, and, where not all is well, why and what to do: in a table's cell. */
export function ReplicationState({ replication }: { replication: Replication | null }) {
  if (!replication) return <>Not started</>;
  return (
    <>
      <Status state={replication.state} />
      {replication.cause ? <><Box color={colours[known(replication.cause.severity)]}>{replication.cause.text}</Box><Box variant="small">What to do: {replication.cause.advice}</Box></> : null}
    </>
  );
}

export function CauseAlert({ replication }: { replication: Replication | null }) {
  if (!replication?.cause) return null;
  return <Alert type={types[known(replication.cause.severity)]} header={replication.cause.text}>What to do: {replication.cause.advice}</Alert>;
}
