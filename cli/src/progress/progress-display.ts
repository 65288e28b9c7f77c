import { MultiBar } from 'cli-progress';
import type { SingleBar } from 'cli-progress';
import type { ProgressRow } from './run-progress.ts';

/** Shows how far a run is, on standard error. */
export interface ProgressDisplay {
  /** Begins a run of its own: its rows come below those of the one before. */
  readonly begin: (title: string) => void;
  readonly update: (rows: readonly ProgressRow[]) => void;
  /** One line between the bars, for example of a restart. */
  readonly notice: (line: string) => void;
  /** Leaves the last state on the screen. */
  readonly close: () => void;
}

/** Bars on a terminal, plain lines everywhere else. */
export function openProgressDisplay(stream: NodeJS.WriteStream): ProgressDisplay {
  return stream.isTTY ? bars(stream) : plainLines(stream);
}

const labelWidth = 34;

function bars(stream: NodeJS.WriteStream): ProgressDisplay {
  const shown = new Map<string, SingleBar>();
  let multi: MultiBar | undefined;
  const open = (): MultiBar =>
    (multi ??= new MultiBar({
      stream,
      format: '  {label} {bar} {count}  {rate}  {left}  {detail}',
      barCompleteChar: '━',
      barIncompleteChar: '─',
      barsize: 28,
      hideCursor: true,
      autopadding: false,
      fps: 8,
      // Ctrl-C is ours: it stops the system in order.
      gracefulExit: false,
    }));
  const close = (): void => {
    multi?.update();
    multi?.stop();
    multi = undefined;
    shown.clear();
  };
  return {
    begin(title) {
      close();
      stream.write(`${title}\n`);
    },
    update(rows) {
      const counts = rows.map(({ done, total }) => `${done}/${total}`);
      const width = Math.max(9, ...counts.map(({ length }) => length));
      for (const [index, row] of rows.entries()) {
        const payload = {
          label: row.label.padEnd(labelWidth).slice(0, labelWidth),
          count: (counts[index] ?? '').padStart(width),
          rate: row.rate.padStart(7),
          left: row.left,
          detail: row.detail,
        };
        const bar = shown.get(row.key);
        if (bar === undefined) shown.set(row.key, open().create(row.total, row.done, payload));
        else {
          bar.setTotal(row.total);
          bar.update(row.done, payload);
        }
      }
    },
    notice(line) {
      if (multi === undefined) stream.write(`${line}\n`);
      else {
        multi.log(`${line}\n`);
        multi.update();
      }
    },
    close,
  };
}

/** A line at every tenth of a stage: readable in a log file. */
function plainLines(stream: NodeJS.WriteStream): ProgressDisplay {
  const tenths = new Map<string, number>();
  return {
    begin(title) {
      tenths.clear();
      stream.write(`${title}\n`);
    },
    update(rows) {
      for (const row of rows) {
        const tenth = Math.floor((row.done / row.total) * 10);
        if (row.done === 0 || tenths.get(row.key) === tenth) continue;
        tenths.set(row.key, tenth);
        const rest = [row.rate, row.left, row.detail].filter((text) => text !== '').join(', ');
        stream.write(`${row.label}: ${row.done}/${row.total}${rest === '' ? '' : `, ${rest}`}\n`);
      }
    },
    notice(line) {
      stream.write(`${line}\n`);
    },
    close() {
      // Nothing is held back.
    },
  };
}
