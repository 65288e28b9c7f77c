import type { TopView } from './snapshot.ts';

/** The view as lines of at most 80 columns. */
export function topLines({ processes, queues, rates, training, stalls, totals }: TopView): string[] {
  const row = (cells: readonly string[], widths: readonly number[]): string =>
    cells
      .map((cell, index) => (index === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[index] ?? 0)))
      .join('')
      .trimEnd();
  const processWidths = [16, 12, 10, 12, 12];
  const queueWidths = [16, 12, 10, 12, 12];
  const perSecond = [
    `${number(rates.clips)} clips`,
    `${number(rates.scores)} scores`,
    `${number(rates.verdicts)} verdicts`,
    `${number(rates.judgeTokens)} tokens`,
    `${number(rates.calls)} calls`,
  ].join('   ');
  return [
    row(['process', 'state', 'restarts', 'memory', 'engines'], processWidths),
    ...processes.map(({ name, state, restarts, memoryBytes, engineBytes }) =>
      row(
        [name, state, restarts === undefined ? '' : String(restarts), bytes(memoryBytes), bytes(engineBytes)],
        processWidths,
      ),
    ),
    '',
    row(['queue', 'waiting', 'in work', 'oldest', 'done/s'], queueWidths),
    ...queues.map(({ consumer, waiting, inWork, oldestSeconds, perSecond: done }) =>
      row(
        [
          consumer,
          String(waiting),
          String(inWork),
          oldestSeconds === undefined ? '' : `${Math.round(oldestSeconds)} s`,
          number(done),
        ],
        queueWidths,
      ),
    ),
    '',
    `a second   ${perSecond}`,
    `training   ${training.stepsPerSecond === undefined ? 'no job' : `${number(training.stepsPerSecond)} steps a second, loss ${training.loss?.toPrecision(4) ?? '?'}`}`,
    `total      ${totals.deadLetters} dead letters   ${totals.redeliveries} redelivered   ${totals.failedSamples} failed samples`,
    `           ${totals.judgeFaults} judge faults   ${totals.lostSpans} lost spans`,
    ...(stalls.length === 0
      ? ['stalls     none']
      : stalls.map(
          ({ stage, cause, runs }) =>
            `STALLED    ${stage} in ${runs} ${runs === 1 ? 'run' : 'runs'}: ${cause.replaceAll('-', ' ')}; more: plumb run watch`,
        )),
  ];
}

function number(value: number | undefined): string {
  if (value === undefined) return '-';
  if (value === 0) return '0';
  return value < 100 ? value.toPrecision(2) : String(Math.round(value));
}

function bytes(value: number | undefined): string {
  return value === undefined ? '' : `${Math.round(value / 2 ** 20)} MiB`;
}
