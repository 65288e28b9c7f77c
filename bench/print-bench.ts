/** What every benchmark ends with: ratios measured side by side in one run, and absolute figures beside them. */
export interface BenchResult {
  readonly bench: string;
  readonly ratios: Readonly<Record<string, number>>;
  readonly figures: Readonly<Record<string, number>>;
}

/** Prints the result on standard output: one line of JSON, or a line for each number. */
export function printBench(result: BenchResult, json: boolean): void {
  if (json) {
    process.stdout.write(`${JSON.stringify(result)}\n`);
    return;
  }
  for (const [kind, numbers] of [
    ['ratio', result.ratios],
    ['figure', result.figures],
  ] as const) {
    for (const [name, value] of Object.entries(numbers))
      process.stdout.write(`${kind}  ${name}  ${value.toPrecision(4)}\n`);
  }
}
