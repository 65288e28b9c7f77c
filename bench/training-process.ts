/**
 * Trains the video DiT in this process, for the trainer benchmark: the counterpart of parity/training_process.py.
 *
 *     node training-process.ts <model.safetensors> <feeds.safetensors> <settings JSON>
 *
 * Reads one line on standard input for every step and answers each with one line of JSON.
 */
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { decodeModel, trainingProgram } from '@plumb/diffusion';
import { parseObjectiveSettings } from '@plumb/objective';
import { initialTrainingState } from '@plumb/tensor-graph';
import { openInThread } from '@plumb/tensor-graph/engine';
import { readSafetensors } from '@plumb/tensor-graph/safetensors';
import type { StepReport, TrainingProcessSettings } from './training-comparison.ts';

const [modelPath = '', feedsPath = '', settingsText = '{}'] = process.argv.slice(2);
const settings = JSON.parse(settingsText) as TrainingProcessSettings;
const engine = openInThread({ intraOpThreads: settings.threads });
const feeds = Object.fromEntries(readSafetensors(await readFile(feedsPath)).tensors);
const { learningRate } = settings.optimisation;

async function open(): Promise<string> {
  const model = decodeModel(await readFile(modelPath), modelPath);
  const program = trainingProgram({
    model,
    objective: parseObjectiveSettings({ algorithm: 'sft' }),
    optimisation: settings.optimisation,
  });
  const state = initialTrainingState(program, Object.fromEntries(model.parameters));
  return engine.openTraining('bench', program, state);
}

const id = await open();
const say = (reply: object): void => {
  process.stdout.write(`${JSON.stringify(reply)}\n`);
};
const peakBytes = (): number => process.resourceUsage().maxRSS * 1024;
say({ peakBytes: peakBytes() });
for await (const line of createInterface({ input: process.stdin })) {
  if (line === '') break;
  const before = process.cpuUsage();
  const start = performance.now();
  const { loss, gradientNorm } = await engine.trainStep(id, feeds, {
    learningRate,
    emaDecay: settings.optimisation.emaDecay,
  });
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(before);
  const report: StepReport = {
    seconds,
    cpuSeconds: (user + system) / 1e6,
    loss: loss ?? Number.NaN,
    gradientNorm: gradientNorm ?? Number.NaN,
    peakBytes: peakBytes(),
  };
  say(report);
}
await engine.close();
