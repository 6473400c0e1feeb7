import { useState } from 'react';
import Box from '@cloudscape-design/components/box';
import Button from '@cloudscape-design/components/button';
import Container from '@cloudscape-design/components/container';
import Header from '@cloudscape-design/components/header';
import KeyValuePairs from '@cloudscape-design/components/key-value-pairs';
import SpaceBetween from '@cloudscape-design/components/space-between';
import { useQuery } from '@tanstack/react-query';
import { useParams } from 'react-router-dom';
import { get, getAll, post, type Run, type Server, type Task, type Wave } from '../api';
import { timeIn, words } from '../format';
import { Act, Failure, Status } from '../parts/common';
import { Servers } from '../parts/servers';
import { SideRuns } from '../parts/side-runs';
import { TaskPanel } from '../parts/task-panel';
import { Tasks } from '../parts/tasks';

export function WavePage() {
  const { name = '' } = useParams();
  const [chosen, setChosen] = useState<Task['id'] | null>(null);
  const [server, setServer] = useState<string | null>(null);
  const path = `/v1/waves/${encodeURIComponent(name)}`;
  const wave = useQuery({ queryKey: ['wave', name], queryFn: () => get<Wave>(path) });
  const servers = useQuery({ queryKey: ['servers', name], queryFn: () => getAll<Server>(`/v1/servers?wave=${encodeURIComponent(name)}`) });
  const runId = wave.data?.run ?? null;
  const run = useQuery({ queryKey: ['run', String(runId)], queryFn: () => get<Run>(`/v1/runs/${runId}`), enabled: runId !== null });

  if (wave.error) return <Failure error={wave.error} what={`The wave ${name} could not be read`} />;
  if (!wave.data) return <Box padding="l">Reading the wave…</Box>;
  const tasks = run.data?.tasks ?? [];

  return (
    <SpaceBetween size="l">
      <Header variant="h1" actions={<WaveActions wave={wave.data} tasks={tasks} path={path} />}>{wave.data.title || name}</Header>
      {servers.error ? <Failure error={servers.error} what="The servers could not be read" /> : null}
      {run.error ? <Failure error={run.error} what="The run could not be read" /> : null}
      <Summary wave={wave.data} tasks={run.data?.tasks} />
      <Servers servers={servers.data} tasks={tasks} chosen={server} onChoose={setServer} />
      <SideRuns wave={name} only={server} onOpen={setChosen} />
      <Tasks title={server ? `Tasks of ${server}` : 'Tasks'} tasks={server ? tasks.filter(task => task.server === server || task.server === null) : tasks}
        loading={run.isPending && runId !== null} empty={runId === null ? 'The wave has not been started.' : 'No task.'} onOpen={setChosen} />
      {chosen !== null ? <TaskPanel id={chosen} onClose={() => setChosen(null)} /> : null}
    </SpaceBetween>
  );
}

/** Of how many tasks what holds; a task that was left out proves nothing, and is not done. */
function progress(wave: Wave, tasks: Task[] | undefined) {
  if (wave.run === null) return 'Not started';
  if (!tasks) return 'Not known';
  const count = (state: Task['state']) => tasks.filter(task => task.state === state).length;
  const waiting = tasks.find(task => task.state === 'WAITING');
  const others = (['FAILED', 'SKIPPED', 'CANCELLED'] as const).map(state => (count(state) ? `, ${count(state)} ${words(state).toLowerCase()}` : '')).join('');
  return `${count('SUCCEEDED')} of ${tasks.length} done${others}${waiting ? `; waiting: ${waiting.title}` : ''}`;
}

function Summary({ wave, tasks }: { wave: Wave; tasks: Task[] | undefined }) {

  return (
    <Container>
      <KeyValuePairs columns={4} items={[
        { label: 'Stage', value: words(wave.stage) },
        { label: 'Health', value: <Status state={wave.health} /> },
        { label: 'Cutover window', value: wave.window ? `${timeIn(wave.window.opens, wave.window.time_zone)} to ${timeIn(wave.window.closes, wave.window.time_zone)}` : 'Not set' },
        { label: 'Tasks', value: progress(wave, tasks) },
      ]} />
    </Container>
  );
}

function WaveActions({ wave, tasks, path }: { wave: Wave; tasks: Task[]; path: string }) {
  const go = tasks.find(task => task.name === 'go_no_go' && task.state === 'WAITING');

  return (
    <SpaceBetween direction="horizontal" size="xs">
      <Button href={`${path}/report.html`} target="_blank" iconName="external" iconAlign="right">Report</Button>
      {wave.run === null ? <Act label="Start the wave" title={`Start ${wave.name}?`} variant="primary" act={() => post(`${path}/start`)}>
        The servers' prerequisites are checked first; nothing on them changes before the agent is pushed.</Act> : null}
      {go ? <Act label="No-go" title="Call the cutover off?" note="Why" act={note => post(`/v1/tasks/${go.id}/decide`, { decision: 'reject', note })}>
        The wave stops here. The sources go on serving, and replication goes on.</Act> : null}
      {go ? <Act label="Go" title={`Cut ${wave.name} over now?`} variant="primary" act={() => post(`${path}/cutover`)}>
        The sources' services are stopped, their last changes are sent, and the copies take their addresses over. Until you finalize, each server can be taken back.</Act> : null}
    </SpaceBetween>
  );
}
