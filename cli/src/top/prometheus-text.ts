/** One value of one series. */
export interface Reading {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/**
 * Reads the Prometheus text format, version 0.0.4, as services write it. Lines that are not understood are passed over:
 * a newer service may say more.
 */
export function readPrometheusText(text: string): Reading[] {
  return text.split('\n').flatMap((line): Reading[] => {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?$/.exec(line);
    if (match === null) return [];
    const [, name = '', labelText = '', valueText = ''] = match;
    const value = Number(valueText.replace('+Inf', 'Infinity').replace('-Inf', '-Infinity'));
    if (Number.isNaN(value)) return [];
    const labels: Record<string, string> = {};
    for (const [, key = '', quoted = ''] of labelText.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[key] = quoted.replaceAll(/\\(.)/g, (_, character: string) =>
        character === 'n' ? '\n' : character,
      );
    }
    return [{ name, labels, value }];
  });
}
