import { useQuery } from '@tanstack/react-query';
import { get, getAll, post, type Run, type Task } from '../api';
import { Act, Failure } from './common';
import { Tasks } from './tasks';

interface Props { wave: string; only: string | null; onOpen: (id: Task['id']) => void }

/** What goes on with single servers beside the wave's own run: ways back, agents that are pushed again. What is over is in the report. */
export function SideRuns({ wave, only, onOpen }: Props) {
  const runs = useQuery({ queryKey: ['run', 'beside', wave], queryFn: () => open(wave) });

  if (runs.error) return <Failure error={runs.error} what="The ways back could not be read" />;
  return (runs.data ?? []).filter(run => !only || run.server === only).map(run =>
    <Tasks key={run.id} title={`${run.title}: ${run.server}`} tasks={run.tasks} empty="No task." actions={<Keep run={run} />} onOpen={onOpen} />);
}

async function open(wave: string): Promise<Run[]> {
  const all = await getAll<Run>(`/v1/runs?wave=${encodeURIComponent(wave)}`);
  return Promise.all(all.filter(run => run.server && run.state === 'RUNNING').map(run => get<Run>(`/v1/runs/${run.id}`)));
}

/** A way home can be called off until the launched machine is being stopped. */
function Keep({ run }: { run: Run }) {
  const stop = run.tasks.find(task => task.name === 'stop_instance');

  if (run.template !== 'way_home' || !stop || stop.started) return null;
  return (
    <Act label="Keep the copy" title={`Call the way home of ${run.server} off?`} act={() => post(`/v1/servers/${encodeURIComponent(run.server ?? '')}/stay`)}>
      The copy’s door opens again and it serves on. A source that has left for its rescue by then stays there until the staged data is dropped.</Act>
  );
}
