/** The chart: lines over time by uPlot, in UTC, with what is not final yet shaded. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

import type { Lines } from "./series";
import { colour } from "./theme";
import { number } from "./words";

interface Given {
  data: Lines;
  /** From where on windows are open, in seconds. */
  openFrom?: number | null;
  height?: number;
}

export function Chart({ data, openFrom = null, height = 240 }: Given) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const shade = useRef(openFrom);
  shade.current = openFrom;
  const values = () => [data.xs, ...data.lines.map((line) => line.ys)] as uPlot.AlignedData;
  const latest = useRef(values);
  latest.current = values;
  const names = data.lines.map((line) => line.label).join("\n");

  useEffect(() => {
    const node = place.current;
    if (!node) return;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(node.clientWidth, height, names.split("\n"), shade), latest.current(), node);
    };
    draw();
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: node.clientWidth, height }));
    resized.observe(node);
    addEventListener("themed", draw);
    return () => {
      removeEventListener("themed", draw);
      resized.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [names, height]);

  useEffect(() => plot.current?.setData(values()), [data, openFrom]);

  const more = data.of > data.lines.length ? `The ${data.lines.length} greatest of ${number(data.of)} lines.` : null;
  return (
    <figure class="chart">
      <div ref={place} />
      {more && <figcaption class="dim">{more}</figcaption>}
    </figure>
  );
}

/** Steps of the time along the axis, in seconds. */
const STEPS = [1, 2, 5, 10, 15, 30, ...[1, 2, 5, 10, 15, 30].map((m) => m * 60), ...[1, 2, 3, 6, 12].map((h) => h * 3600)];
const DAYS = [1, 2, 5, 10, 30, 90, 365].map((d) => d * 86_400);

function options(width: number, height: number, names: string[], shade: { current: number | null }): uPlot.Options {
  const [line, text] = [colour("line"), colour("dim")];
  const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const short = (value: number) =>
    Math.abs(value) >= 10_000 ? Intl.NumberFormat("en", { notation: "compact" }).format(value) : number(Number(value.toPrecision(6)));
  return {
    width,
    height,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    fmtDate: (template) => uPlot.fmtDate(template.replace("{h}", "{HH}").replace(/\s*{aa}/, "")),
    cursor: { points: { size: 6 }, drag: { x: true, y: false } },
    axes: [
      { ...axis, values: times, incrs: [...STEPS, ...DAYS], space: 70, size: 28 },
      { ...axis, values: (_, ticks) => ticks.map(short), size: 52 },
    ],
    series: [
      { label: "UTC", value: (_, x) => (x === null ? "" : `${new Date(x * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`) },
      ...names.map((label, at) => ({
        label,
        stroke: colour(`hue-${at + 1}`),
        width: 1.75,
        spanGaps: false,
        points: { size: 4 },
        value: (_: uPlot, y: number | null) => (y === null ? "" : number(Number(y.toPrecision(12)))),
      })),
    ],
    hooks: {
      drawClear: [
        (plot) => {
          if (shade.current === null || plot.data[0].length === 0) return;
          const { left, top, width, height } = plot.bbox;
          const from = Math.max(left, plot.valToPos(shade.current, "x", true));
          if (from >= left + width) return;
          plot.ctx.fillStyle = colour("open");
          plot.ctx.fillRect(from, top, left + width - from, height);
        },
      ],
    },
  };
}

/** Times along the axis: the day only where one begins, seconds only where they are told apart. */
function times(_: uPlot, ticks: number[], __: number, ___: number, step: number): string[] {
  return ticks.map((tick) => {
    const text = new Date(tick * 1000).toISOString();
    return tick % 86_400 === 0 ? text.slice(5, 10) : text.slice(11, step < 60 ? 19 : 16);
  });
}
