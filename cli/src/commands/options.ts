import { InvalidArgumentError, Option } from 'commander';
import { portNames } from '../supervisor/port-names.ts';
import type { PortName } from '../supervisor/port-names.ts';

/** Folder of everything that the embedded system keeps, from the current folder. */
export const defaultStateFolder = '.plumb';

export function stateOption(): Option {
  return new Option('--state <folder>', 'folder that keeps everything between two starts').default(
    defaultStateFolder,
  );
}

export function portOption(): Option {
  return new Option('--port <name=port>', `fixed port for one of ${portNames.join(', ')}; may be repeated`)
    .argParser(parsePort)
    .default({}, 'free ports');
}

/** Whole numbers from `least` on. */
export function countOption(flags: string, description: string, least = 1): Option {
  return new Option(flags, description).argParser((text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < least) {
      throw new InvalidArgumentError(`Give a whole number from ${least} on.`);
    }
    return value;
  });
}

/** Positive decimal numbers. */
export function numberOption(flags: string, description: string): Option {
  return new Option(flags, description).argParser((text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || value <= 0) {
      throw new InvalidArgumentError('Give a number above 0.');
    }
    return value;
  });
}

/** A seed: an unsigned 64-bit integer. */
export function seedOption(): Option {
  return new Option('--seed <number>', 'every random choice follows from it').argParser((text) => {
    if (!/^\d{1,20}$/.test(text) || BigInt(text) >= 2n ** 64n) {
      throw new InvalidArgumentError('Give a whole number from 0 to 2^64 - 1.');
    }
    return BigInt(text);
  });
}

function parsePort(
  text: string,
  earlier: Readonly<Partial<Record<PortName, number>>>,
): Partial<Record<PortName, number>> {
  const [name, port, ...rest] = text.split('=');
  const known = portNames.find((candidate) => candidate === name);
  if (known === undefined || rest.length > 0) {
    throw new InvalidArgumentError(`Give <name>=<port> with a name from ${portNames.join(', ')}.`);
  }
  const value = Number(port);
  if (!/^\d+$/.test(port ?? '') || value < 1 || value > 65_535) {
    throw new InvalidArgumentError('The port must be from 1 to 65535.');
  }
  return { ...earlier, [known]: value };
}
