import { useEffect, useState } from 'react';
import Flashbar from '@cloudscape-design/components/flashbar';
import { heardAt } from '../api';
import { time } from '../format';

const QUIET_MS = 45_000; // every page asks twice a minute, so by then a question was not answered

/** How old what is shown may be; nothing where it is as of now. */
export function Feed({ up }: { up: boolean }) {
  const [since, setSince] = useState<number | null>(null);

  useEffect(() => {
    const look = () => setSince(Date.now() - heardAt() > QUIET_MS ? heardAt() : null);
    const timer = window.setInterval(look, 1000);
    return () => window.clearInterval(timer);
  }, []);
  if (since !== null) return <Flashbar items={[{ id: 'silent', type: 'error', header: 'The factory does not answer',
    content: `Nothing has been heard from it since ${time(new Date(since).toISOString())}: what is shown is of then. Servers and their replication may stand otherwise by now.` }]} />;
  if (up) return null;
  return <Flashbar items={[{ id: 'stream', type: 'in-progress', loading: true, content: 'Connecting to the live feed; what is shown may be up to 30 seconds old.' }]} />;
}
