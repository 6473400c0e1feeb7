import 'uplot/dist/uPlot.min.css';
import { useEffect, useRef } from 'react';
import Box from '@cloudscape-design/components/box';
import UPlot from 'uplot';
import { bytes, rate } from '../format';
import { useHistory, type Series } from '../history';

const height = 220;
const ink = { light: { text: '#424650', grid: '#e3e6eb', backlog: '#0b5c8a', churn: '#b3401c', rate: '#1d7a4f' },
  dark: { text: '#c6ccd6', grid: '#39424e', backlog: '#7fb8e6', churn: '#ff9b73', rate: '#7fd1a7' } };

const powers = Array.from({ length: 40 }, (_, power) => 2 ** (power + 10));
const data = (series: Series): UPlot.AlignedData => [series.at, series.backlog, series.churn, series.rate];

function options(width: number): UPlot.Options {
  const colours = window.matchMedia('(prefers-color-scheme: dark)').matches ? ink.dark : ink.light;
  const axis = { stroke: colours.text, grid: { stroke: colours.grid, width: 1 }, ticks: { stroke: colours.grid } };
  const line = (label: string, scale: string, stroke: string, value: (count: number | null) => string, dash?: number[]): UPlot.Series =>
    ({ label, scale, stroke, width: 2, points: { show: false }, value: (_, count) => (count === null ? '–' : value(count)), ...(dash ? { dash } : {}) });

  return {
    width, height,
    // Room above, so that the highest of one scale does not lie on the highest of the other.
    scales: { bytes: { range: (_, __, most) => [0, 1.3 * Math.max(most ?? 0, 1 << 20)] }, speed: { range: (_, __, most) => [0, 1.1 * Math.max(most ?? 0, 125_000)] } },
    axes: [axis, { ...axis, scale: 'bytes', size: 80, incrs: powers, values: (_, ticks) => ticks.map(tick => bytes(tick)) },
      { ...axis, scale: 'speed', side: 1, size: 90, grid: { show: false }, values: (_, ticks) => ticks.map(tick => rate(tick)) }],
    series: [{}, line('Backlog', 'bytes', colours.backlog, bytes), line('Written anew (churn)', 'speed', colours.churn, rate, [6, 4]), line('Gets across (rate)', 'speed', colours.rate, rate)],
  };
}

/** Backlog, and churn against rate, as the live feed tells them: where churn lies above rate, the backlog grows. */
export function Chart({ server }: { server: string }) {
  const series = useHistory(server);
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot | null>(null);
  const there = series !== undefined && series.at.length > 1;

  useEffect(() => {
    const element = place.current;
    if (!there || !element) return;
    const dark = window.matchMedia('(prefers-color-scheme: dark)');
    const draw = () => { const was = plot.current?.data; plot.current?.destroy(); plot.current = new UPlot(options(element.clientWidth), was ?? [[], [], [], []], element); };
    const fit = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height }));
    draw();
    fit.observe(element);
    dark.addEventListener('change', draw);
    return () => { dark.removeEventListener('change', draw); fit.disconnect(); plot.current?.destroy(); plot.current = null; };
  }, [there]);
  useEffect(() => {
    if (!series || !plot.current) return;
    plot.current.setData(data(series));
    if ((plot.current.cursor.left ?? -1) < 0) plot.current.setLegend({ idx: series.at.length - 1 }); // the newest, unless somebody points at another
  }, [series, there]);
  if (!there) return <Box color="text-body-secondary" padding="s">The chart begins with what is reported from now on.</Box>;
  const newest = series.at.length - 1;
  return <div ref={place} className="chart" role="img"
    aria-label={`Of late: backlog ${bytes(series.backlog[newest])}, written anew ${rate(series.churn[newest])}, gets across ${rate(series.rate[newest])}`} />;
}
