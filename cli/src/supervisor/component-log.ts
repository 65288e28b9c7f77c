import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { createStream } from 'rotating-file-stream';

/** The log file of one component: rotated at 10 MB, three old files are kept. */
export interface ComponentLog {
  readonly path: string;
  /** Copies a child's output to the file, line by line, until it ends. */
  follow(output: Readable): void;
  /** Writes a line of the supervisor's own. */
  note(line: string): void;
  /** The last lines that were written since the start. */
  tail(): readonly string[];
  close(): Promise<void>;
}

const tailLines = 20;

/** Opens `<folder>/<name>.log` for appending. `onError` hears of a disk that is full or not writable. */
export function openComponentLog(
  folder: string,
  name: string,
  onError: (error: Error) => void,
): ComponentLog {
  const file = createStream(`${name}.log`, { path: folder, size: '10M', maxFiles: 3 });
  file.on('error', onError);
  const tail: string[] = [];
  const write = (line: string): void => {
    tail.push(line);
    if (tail.length > tailLines) tail.shift();
    file.write(`${line}\n`);
  };
  return {
    path: join(folder, `${name}.log`),
    follow(output) {
      createInterface({ input: output, crlfDelay: Infinity }).on('line', write);
    },
    note(line) {
      write(`${new Date().toISOString()} supervisor: ${line}`);
    },
    tail: () => [...tail],
    close: () =>
      new Promise((resolve) => {
        file.end(resolve);
      }),
  };
}
