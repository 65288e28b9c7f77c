import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Attributes } from '@opentelemetry/api';
import type { MeterProvider } from '@opentelemetry/sdk-metrics';

const run = promisify(execFile);

/** Answers of nvidia-smi are this old at most, in milliseconds; it takes some tens of them to answer. */
const gpuEveryMs = 5000;

/**
 * Observes this process, the engines that it has forked, and the GPUs that it can see. Engines are found in /proc, so there
 * are none on other systems than Linux; GPUs through nvidia-smi, where that is installed.
 */
export function observeProcess(provider: MeterProvider): void {
  const meter = provider.getMeter('plumb.process');
  meter
    .createObservableUpDownCounter('process.memory.usage', {
      description: 'Resident memory of the service process',
      unit: 'By',
    })
    .addCallback((result) => {
      result.observe(process.memoryUsage.rss());
    });
  meter
    .createObservableUpDownCounter('plumb.engine.memory.usage', {
      description: 'Resident memory of each engine process of the service',
      unit: 'By',
    })
    .addCallback(async (result) => {
      for (const { pid, bytes } of await childProcesses()) result.observe(bytes, { 'process.pid': pid });
    });
  const gpus = gpuReader();
  meter
    .createObservableGauge('plumb.gpu.utilization', {
      description: 'Share of the time in which the GPU was computing',
      unit: '1',
    })
    .addCallback(async (result) => {
      for (const { attributes, utilization } of await gpus()) result.observe(utilization, attributes);
    });
  meter
    .createObservableUpDownCounter('plumb.gpu.memory.usage', {
      description: 'Memory of the GPU in use, by all processes',
      unit: 'By',
    })
    .addCallback(async (result) => {
      for (const { attributes, usedBytes } of await gpus()) result.observe(usedBytes, attributes);
    });
}

/** Child processes with their resident memory. None where /proc does not tell. */
async function childProcesses(): Promise<{ pid: number; bytes: number }[]> {
  const found: { pid: number; bytes: number }[] = [];
  const children = await readFile(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8').catch(
    () => '',
  );
  for (const pid of children.split(' ').filter(Boolean)) {
    // It may have ended since.
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    const kibibytes = /^VmRSS:\s*(\d+) kB$/m.exec(status)?.[1];
    const isTool = /^Name:\s*nvidia-smi$/m.test(status);
    if (kibibytes !== undefined && !isTool) found.push({ pid: Number(pid), bytes: Number(kibibytes) * 1024 });
  }
  return found;
}

interface GpuReading {
  readonly attributes: Attributes;
  readonly utilization: number;
  readonly usedBytes: number;
}

/** Reads all GPUs; a machine without nvidia-smi is asked once and has none. */
function gpuReader(): () => Promise<readonly GpuReading[]> {
  let absent = false;
  let last: { readonly at: number; readonly reading: Promise<readonly GpuReading[]> } | undefined;
  const read = async (): Promise<readonly GpuReading[]> => {
    try {
      const { stdout } = await run(
        'nvidia-smi',
        ['--query-gpu=index,name,utilization.gpu,memory.used', '--format=csv,noheader,nounits'],
        { timeout: 2000 },
      );
      return stdout.trim().split('\n').flatMap(gpuOf);
    } catch (error) {
      absent = error instanceof Error && 'code' in error && error.code === 'ENOENT';
      return [];
    }
  };
  return async () => {
    if (absent) return [];
    if (last === undefined || performance.now() - last.at > gpuEveryMs) {
      last = { at: performance.now(), reading: read() };
    }
    return await last.reading;
  };
}

function gpuOf(line: string): GpuReading[] {
  const [index, name, percent, mebibytes] = line.split(',').map((part) => part.trim());
  const utilization = Number(percent) / 100;
  const usedBytes = Number(mebibytes) * 2 ** 20;
  // A GPU that does not tell says "[N/A]".
  if (!Number.isFinite(utilization) || !Number.isFinite(usedBytes)) return [];
  return [{ attributes: { 'hw.id': index ?? '', 'hw.name': name ?? '' }, utilization, usedBytes }];
}
