import Box from '@cloudscape-design/components/box';
import Modal from '@cloudscape-design/components/modal';
import KeyValuePairs from '@cloudscape-design/components/key-value-pairs';
import Link from '@cloudscape-design/components/link';
import SpaceBetween from '@cloudscape-design/components/space-between';
import StatusIndicator from '@cloudscape-design/components/status-indicator';
import Table from '@cloudscape-design/components/table';
import { useQuery } from '@tanstack/react-query';
import { get, type Artifact, type Evidence, type Task } from '../api';
import { bytes, time } from '../format';
import { Empty, Failure, Status } from './common';

/** One task, whole: evidence line by line, pictures, files, what it gave. */
export function TaskPanel({ id, onClose }: { id: Task['id']; onClose: () => void }) {
  const task = useQuery({ queryKey: ['task', String(id)], queryFn: () => get<Task>(`/v1/tasks/${id}`) });
  const title = task.data ? `${task.data.title}${task.data.server ? ` of ${task.data.server}` : ''}` : 'Task';

  return (
    <Modal visible size="max" onDismiss={onClose} header={title} closeAriaLabel="Close">
      {task.error ? <Failure error={task.error} what="The task could not be read" /> : task.data ? <Details task={task.data} /> : <>Reading the task…</>}
    </Modal>
  );
}

function Details({ task }: { task: Task }) {
  return (
    <SpaceBetween size="l">
      <KeyValuePairs columns={4} items={[
        { label: 'State', value: <Status state={task.state} /> },
        { label: 'Started', value: time(task.started) },
        { label: 'Finished', value: time(task.finished) },
        { label: 'Attempt', value: task.attempt },
      ]} />
      {task.error ? <Failure error={task.error.message} what="It failed" /> : null}
      <Table<Evidence> items={task.evidence ?? []} variant="embedded" wrapLines contentDensity="compact" empty={<Empty>No evidence yet.</Empty>}
        ariaLabels={{ tableLabel: 'Evidence' }} header={<Box variant="h3">Evidence</Box>}
        columnDefinitions={[
          { id: 'holds', header: 'Holds', width: 100, cell: line => <StatusIndicator type={line.passed ? 'success' : 'error'}>{line.passed ? 'Yes' : 'No'}</StatusIndicator> },
          { id: 'name', header: 'What was looked at', width: 260, isRowHeader: true, cell: line => line.name },
          { id: 'text', header: 'What was seen', cell: line => <span className="seen">{line.evidence}</span> },
        ]} />
      {(task.artifacts ?? []).map(artifact => <ArtifactView key={artifact.name} task={task} artifact={artifact} />)}
      {task.result && Object.keys(task.result).length ? <div><Box variant="h3">Result</Box><pre className="seen" tabIndex={0}>{JSON.stringify(task.result, null, 2)}</pre></div> : null}
    </SpaceBetween>
  );
}

function ArtifactView({ task, artifact }: { task: Task; artifact: Artifact }) {
  const url = artifact.url ?? `/v1/tasks/${task.id}/artifacts/${encodeURIComponent(artifact.name)}`;

  if (artifact.media_type === 'image/png')
    return <figure><img className="picture" src={url} alt={`Screen of ${task.server ?? 'the instance'}: ${artifact.name}`} /><figcaption>{artifact.name}</figcaption></figure>;
  return <Link href={url} external>{artifact.name} ({bytes(artifact.size_bytes)})</Link>;
}
