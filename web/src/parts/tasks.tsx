import { useEffect, useState, type ReactNode } from 'react';
import Box from '@cloudscape-design/components/box';
import Button from '@cloudscape-design/components/button';
import Header from '@cloudscape-design/components/header';
import ProgressBar from '@cloudscape-design/components/progress-bar';
import SpaceBetween from '@cloudscape-design/components/space-between';
import Table from '@cloudscape-design/components/table';
import { post, type Task } from '../api';
import { bytes, duration, localZone, time, words } from '../format';
import { Act, Empty, Status } from './common';
import { usePages } from './pages';

interface Props { title: string; tasks: Task[]; loading?: boolean; empty: string; actions?: ReactNode; onOpen: (id: Task['id']) => void }

const PAGE = 100;
/** What somebody has to act on: it must not lie on a page that nobody turns to. */
const asks = (task: Task) => (task.state === 'FAILED' ? 2 : task.state === 'WAITING' && task.waits_for?.kind === 'person' ? 1 : 0);

export function Tasks({ title, tasks, loading = false, empty, actions, onOpen }: Props) {
  const ordered = tasks.length > PAGE ? [...tasks].sort((a, b) => asks(b) - asks(a)) : tasks;
  const { rows, pagination } = usePages(ordered, PAGE, 'tasks');

  return (
    <Table<Task>
      items={rows} pagination={pagination} loading={loading} loadingText="Reading the tasks" trackBy="id" contentDensity="compact"
      ariaLabels={{ tableLabel: title }}
      header={<Header counter={`(${tasks.length})`} description={`Open one to see its evidence and pictures${tasks.length > PAGE ? '. What failed, or waits for a person, comes first' : ''}`} actions={actions}>{title}</Header>}
      empty={<Empty>{empty}</Empty>}
      columnDefinitions={[
        { id: 'phase', header: 'Phase', cell: task => words(task.phase) },
        { id: 'task', header: 'Task', isRowHeader: true, cell: task => <Button variant="inline-link" onClick={() => onOpen(task.id)} ariaLabel={`${task.title}${task.server ? ' of ' + task.server : ''}`}>{task.title}</Button> },
        { id: 'server', header: 'Server', cell: task => task.server ?? 'Whole wave' },
        { id: 'state', header: 'State', minWidth: 220, cell: task => <TaskState task={task} /> },
        { id: 'evidence', header: 'Evidence', cell: task => (task.evidence_count ? `${task.evidence_count - task.evidence_failed} of ${task.evidence_count} hold` : '–') },
        { id: 'took', header: 'Took', cell: task => <Took task={task} /> },
        { id: 'actions', header: 'Actions', cell: task => <TaskActions task={task} /> },
      ]}
    />
  );
}

function Took({ task }: { task: Task }) {
  const [now, setNow] = useState(Date.now());
  const running = task.started !== null && task.finished === null && task.state === 'RUNNING';

  useEffect(() => {
    if (!running) return;
    const timer = window.setInterval(() => setNow(Date.now()), 1000);
    return () => window.clearInterval(timer);
  }, [running]);
  if (!task.started) return <>–</>;
  return <>{duration((task.finished ? Date.parse(task.finished) : now) - Date.parse(task.started))}</>;
}

function TaskState({ task }: { task: Task }) {
  const progress = task.state === 'RUNNING' ? task.progress : null;
  const amount = (count: number) => (progress?.unit === 'bytes' ? bytes(count) : `${count} ${progress?.unit ?? ''}`);

  return (
    <SpaceBetween size="xxs">
      <Status state={task.state} />
      {task.state === 'WAITING' && task.waits_for ? <Box variant="small">for {task.waits_for.kind}: {task.waits_for.what}{task.waits_for.until ? ` (${time(task.waits_for.until)}, ${localZone})` : ''}</Box> : null}
      {progress && progress.total > 0 ? <ProgressBar value={100 * progress.done / progress.total} ariaLabel={task.title} additionalInfo={`${amount(progress.done)} of ${amount(progress.total)} ${progress.note ?? ''}`} />
        : progress?.note ? <Box variant="small">{progress.note}</Box> : null}
      {task.error && task.state !== 'SUCCEEDED' ? <Box color="text-status-error">{task.error.message}</Box> : null}
    </SpaceBetween>
  );
}

function TaskActions({ task }: { task: Task }) {
  const subject = task.server ?? 'the whole wave';
  const decide = (decision: string) => (note: string) => post(`/v1/tasks/${task.id}/decide`, { decision, note });

  if (task.state === 'FAILED') return (
    <SpaceBetween direction="horizontal" size="xs">
      <Act key="Retry" label="Retry" title={`Retry “${task.title}” of ${subject}?`} act={() => post(`/v1/tasks/${task.id}/retry`)}>{task.error?.message ?? 'It failed.'}</Act>
      <Act key="Skip" label="Skip" title={`Skip “${task.title}” of ${subject}?`} note="Reason (it goes into the report)" act={reason => post(`/v1/tasks/${task.id}/skip`, { reason })}>
        What it should have proved stays unproved, and the report will say so.</Act>
    </SpaceBetween>
  );
  if (task.state !== 'WAITING' || task.waits_for?.kind !== 'person' || task.name === 'go_no_go' || task.name === 'door') return <>–</>;
  return (
    <SpaceBetween direction="horizontal" size="xs">
      <Act key="Approve" label="Approve" title={`Approve “${task.title}” of ${subject}?`} note="Note" variant="primary" act={decide('approve')}>Your name and the time are kept with it.</Act>
      <Act key="Reject" label="Reject" title={`Reject “${task.title}” of ${subject}?`} note="Why" act={decide('reject')}>The server stops here until somebody retries it.</Act>
    </SpaceBetween>
  );
}
