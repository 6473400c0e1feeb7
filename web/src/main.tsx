import '@cloudscape-design/global-styles/index.css';
import './style.css';
import { useEffect } from 'react';
import { createRoot } from 'react-dom/client';
import { QueryClient, QueryClientProvider, useQuery, useQueryClient } from '@tanstack/react-query';
import { BrowserRouter, Navigate, Route, Routes, useLocation, useNavigate } from 'react-router-dom';
import { applyMode, Mode } from '@cloudscape-design/global-styles';
import AppLayout from '@cloudscape-design/components/app-layout';
import Flashbar from '@cloudscape-design/components/flashbar';
import SideNavigation from '@cloudscape-design/components/side-navigation';
import TopNavigation from '@cloudscape-design/components/top-navigation';
import { call, get, Problem, rememberCsrf, type Me } from './api';
import { useLive } from './live';
import { Audit } from './pages/audit';
import { Doctor } from './pages/doctor';
import { ServerPage } from './pages/server';
import { SignIn } from './pages/sign-in';
import { WavePage } from './pages/wave';
import { Waves } from './pages/waves';
import { Failure } from './parts/common';
import { theme } from './theme';

// "always": a browser that thinks itself offline would keep what was ordered (a cutover) and send it when it is back.
const client = new QueryClient({
  defaultOptions: { mutations: { networkMode: 'always' }, queries: { staleTime: 5_000, refetchInterval: 30_000, retry: (count, error) => count < 2 && !(error instanceof Problem && error.status >= 400 && error.status < 500) } },
});
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const followMode = () => applyMode(dark.matches ? Mode.Dark : Mode.Light);

function App() {
  const queries = useQueryClient();
  const me = useQuery({ queryKey: ['me'], queryFn: () => get<Me>('/v1/me'), staleTime: Infinity, refetchInterval: false });
  const signedIn = me.data !== undefined && !me.error;
  const up = useLive(queries, signedIn);

  if (me.data) rememberCsrf(me.data.csrf);
  if (me.error instanceof Problem && me.error.status === 401) return <SignIn onDone={() => void queries.resetQueries()} />;
  if (me.error) return <main className="sign-in"><Failure error={me.error} what="The console could not start" /></main>;
  if (!me.data) return <main className="sign-in">Opening…</main>;
  return <Frame me={me.data} up={up} />;
}

function Frame({ me, up }: { me: Me; up: boolean }) {
  const navigate = useNavigate();
  const queries = useQueryClient();
  const { pathname } = useLocation();
  const leave = () => void call('DELETE', '/v1/sessions/current').finally(() => queries.resetQueries());
  const follow = (event: CustomEvent<{ href?: string }>) => { event.preventDefault(); if (event.detail.href) navigate(event.detail.href); };

  useEffect(() => { document.title = `Slipway${pathname === '/' ? '' : ' · ' + decodeURIComponent(pathname.split('/').pop() ?? '')}`; }, [pathname]);
  return (
    <>
      <header id="top">
        <TopNavigation identity={{ href: '/', title: 'Slipway', onFollow: event => { event.preventDefault(); navigate('/'); } }}
          utilities={[{ type: 'menu-dropdown', text: me.name, description: me.role, iconName: 'user-profile',
            items: [{ id: 'out', text: 'Sign out' }], onItemClick: leave }]} />
      </header>
      <AppLayout headerSelector="#top" toolsHide navigationWidth={200}
        ariaLabels={{ navigation: 'Pages', navigationClose: 'Close the list of pages', navigationToggle: 'Open the list of pages' }}
        navigation={<SideNavigation header={{ href: '/waves', text: 'Factory' }} activeHref={'/' + (pathname.split('/')[1] ?? '').replace('servers', 'waves')} onFollow={follow}
          items={[{ type: 'link', text: 'Waves', href: '/waves' }, { type: 'link', text: 'Doctor', href: '/doctor' }, { type: 'link', text: 'Trail', href: '/trail' }]} />}
        notifications={up ? null : <Flashbar items={[{ id: 'stream', type: 'in-progress', loading: true, content: 'Connecting to the live feed; what is shown may be up to 30 seconds old.' }]} />}
        content={<Routes>
          <Route path="/waves" element={<Waves />} />
          <Route path="/waves/:name" element={<WavePage />} />
          <Route path="/servers/:name" element={<ServerPage />} />
          <Route path="/doctor" element={<Doctor />} />
          <Route path="/trail" element={<Audit />} />
          <Route path="*" element={<Navigate to="/waves" replace />} />
        </Routes>} />
    </>
  );
}

followMode();
dark.addEventListener('change', followMode);
theme();
createRoot(document.getElementById('root')!).render(
  <QueryClientProvider client={client}><BrowserRouter><App /></BrowserRouter></QueryClientProvider>,
);
