import '@cloudscape-design/global-styles/index.css';
import './style.css';
import { useEffect } from 'react';
import { createRoot } from 'react-dom/client';
import { QueryCache, QueryClient, QueryClientProvider, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { BrowserRouter, Navigate, Route, Routes, useLocation, useNavigate } from 'react-router-dom';
import { applyMode, Mode } from '@cloudscape-design/global-styles';
import AppLayout from '@cloudscape-design/components/app-layout';
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
import { Feed } from './parts/feed';
import { theme } from './theme';

const signedOut = (error: unknown) => error instanceof Problem && error.status === 401;

// "always": a browser that thinks itself offline would show old data without a word, and keep what was ordered (a cutover) to send it when it is back.
const client: QueryClient = new QueryClient({
  queryCache: new QueryCache({ onError: (error, query) => { if (signedOut(error) && query.queryKey[0] !== 'me') void client.invalidateQueries({ queryKey: ['me'] }); } }),
  defaultOptions: { mutations: { networkMode: 'always' }, queries: { networkMode: 'always', staleTime: 5_000, refetchInterval: 30_000, retry: (count, error) => count < 2 && !(error instanceof Problem && error.status >= 400 && error.status < 500) } },
});
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const followMode = () => applyMode(dark.matches ? Mode.Dark : Mode.Light);

function App() {
  const queries = useQueryClient();
  const me = useQuery({ queryKey: ['me'], queryFn: () => get<Me>('/v1/me'), staleTime: Infinity,
    refetchInterval: query => (query.state.error && !signedOut(query.state.error) ? 5000 : false) });
  const signedIn = me.data !== undefined && !signedOut(me.error);
  const up = useLive(queries, signedIn);

  if (me.data) rememberCsrf(me.data.csrf);
  if (signedOut(me.error)) return <SignIn onDone={() => void queries.resetQueries()} />;
  if (me.error && !me.data) return <main className="sign-in"><Failure error={me.error} what="The console could not start" /></main>;
  if (!me.data) return <main className="sign-in">Opening…</main>;
  return <Frame me={me.data} up={up} />;
}

const shown = (part: string) => { try { return decodeURIComponent(part); } catch { return part; } };

function Frame({ me, up }: { me: Me; up: boolean }) {
  const navigate = useNavigate();
  const queries = useQueryClient();
  const { pathname } = useLocation();
  const leave = useMutation({ mutationFn: () => call('DELETE', '/v1/sessions/current'), onSuccess: () => queries.resetQueries() });
  const follow = (event: CustomEvent<{ href?: string }>) => { event.preventDefault(); if (event.detail.href) navigate(event.detail.href); };

  useEffect(() => { document.title = `Slipway${pathname === '/' ? '' : ' · ' + shown(pathname.split('/').pop() ?? '')}`; }, [pathname]);
  return (
    <>
      <header id="top">
        <TopNavigation identity={{ href: '/', title: 'Slipway', onFollow: event => { event.preventDefault(); navigate('/'); } }}
          utilities={[{ type: 'menu-dropdown', text: me.name, description: me.role, iconName: 'user-profile',
            items: [{ id: 'out', text: 'Sign out' }], onItemClick: () => leave.mutate() }]} />
      </header>
      <AppLayout headerSelector="#top" toolsHide navigationWidth={200}
        ariaLabels={{ navigation: 'Pages', navigationClose: 'Close the list of pages', navigationToggle: 'Open the list of pages' }}
        navigation={<SideNavigation header={{ href: '/waves', text: 'Factory' }} activeHref={'/' + (pathname.split('/')[1] ?? '').replace('servers', 'waves')} onFollow={follow}
          items={[{ type: 'link', text: 'Waves', href: '/waves' }, { type: 'link', text: 'Doctor', href: '/doctor' }, { type: 'link', text: 'Trail', href: '/trail' }]} />}
        notifications={<>{leave.error ? <Failure error={leave.error} what="Not signed out" /> : null}<Feed up={up} /></>}
        content={<Routes key={pathname}>
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
