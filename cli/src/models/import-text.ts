import Table from 'cli-table3';
import type { ImportReport } from './import-model.ts';

/** What `plumb model import` tells people. */
export function importText(
  report: Omit<ImportReport, 'golden'> & {
    readonly golden?: Omit<NonNullable<ImportReport['golden']>, 'picture'> & { readonly file: string };
  },
): string {
  const { format, golden } = report;
  const lines = [
    `${report.version} is registered as a candidate.`,
    '',
    `${report.kind}, ${report.parameters === 0 ? 'parameters unknown' : `${count(report.parameters)} parameters`}, licence ${report.licence === '' ? 'not stated' : report.licence}`,
    `${format.frames} frames of ${format.width}x${format.height} at ${format.fps} a second; scheduler ${report.scheduler}`,
  ];
  if (report.components.length > 0) {
    const table = new Table({
      head: ['component', 'parameters', 'weights', 'opset', 'operators'],
      colAligns: ['left', 'right', 'right', 'right', 'right'],
      style: { head: [], border: [] },
    });
    for (const { name, parameters, weightBytes, opset, operators } of report.components) {
      table.push([name, count(parameters), size(weightBytes), String(opset), String(operators.length)]);
    }
    lines.push(table.toString());
  }
  const { training } = report;
  if (training !== undefined) {
    lines.push(
      'obstacle' in training
        ? `Training: not possible: ${training.obstacle}`
        : `Training: adapters go on ${training.layers} layers, ${count(training.parametersPerRank)} parameters for each rank.`,
    );
  }
  if (golden === undefined) {
    lines.push('No golden sample: every clip of it costs money.');
    return lines.join('\n');
  }
  lines.push(
    `Golden sample: ${golden.file} ("${golden.prompt}", seed ${golden.seed})`,
    `Measured here: ${golden.seconds.toPrecision(3)} s for one clip of ${golden.steps} steps at guidance ${golden.guidance}, loading included.`,
    `Memory: ${size(report.weightBytes)} of weights when everything is loaded, and activations on top (docs/gpu.md).`,
  );
  return lines.join('\n');
}

function count(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toPrecision(3)} B`;
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  return value >= 1e3 ? `${(value / 1e3).toPrecision(3)} k` : String(value);
}

function size(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toPrecision(3)} GiB` : `${(bytes / 2 ** 20).toPrecision(3)} MiB`;
}
