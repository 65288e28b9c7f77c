/** Dense optical flow by polynomial expansion (Farnebäck, SCIA 2003), from OpenCV. */

import { createRequire } from 'node:module';
import { internal } from '@plumb/kit/errors';
import type { DefinitionOf } from './definition.ts';
import type { FlowEstimator } from './optical-flow.ts';
import type { Picture } from './resample.ts';

type Settings = Extract<DefinitionOf<'optical-flow'>['estimator'], { method: 'farneback' }>;

/** A matrix in OpenCV's own memory. */
interface Matrix {
  readonly data: Uint8Array;
  readonly data32F: Float32Array;
  delete(): void;
}

/** The part of OpenCV that is used. Its own declarations describe the whole and import the DOM. */
interface OpenCv {
  onRuntimeInitialized?: () => void;
  readonly Mat: new (...args: readonly number[]) => Matrix;
  readonly CV_8UC1: number;
  exceptionFromPtr(address: number): { readonly msg: string };
  calcOpticalFlowFarneback(
    from: Matrix,
    to: Matrix,
    flow: Matrix,
    pyramidScale: number,
    levels: number,
    windowSize: number,
    iterations: number,
    polyN: number,
    polySigma: number,
    flags: number,
  ): void;
}

let loading: Promise<{ readonly cv: OpenCv }> | undefined;

/**
 * OpenCV, loaded once a thread. It comes in a wrapper: the module has a `then` of its own that never calls back, so that
 * awaiting the module itself would wait for ever. It says in another way when its WebAssembly is ready.
 */
function loadOpenCv(): Promise<{ readonly cv: OpenCv }> {
  loading ??= new Promise((resolve) => {
    const cv = createRequire(import.meta.url)('@techstark/opencv-js') as Partial<OpenCv>;
    const ready = (): void => resolve({ cv: cv as OpenCv });
    if (cv.Mat === undefined) cv.onRuntimeInitialized = ready;
    else ready();
  });
  return loading;
}

/** Luma as OpenCV computes it from RGB (ITU-R BT.601), in its fixed point of 15 bits. */
function toGrey({ data }: Picture, target: Uint8Array): void {
  for (let pixel = 0; pixel < target.length; pixel += 1) {
    const at = pixel * 3;
    target[pixel] =
      ((data[at] ?? 0) * 9798 + (data[at + 1] ?? 0) * 19_235 + (data[at + 2] ?? 0) * 3735 + (1 << 14)) >> 15;
  }
}

/** An estimator that runs in the calling thread and blocks it for a pair of frames. */
export async function openFarneback(settings: Settings): Promise<FlowEstimator> {
  const { cv } = await loadOpenCv();
  const { pyramidScale, levels, windowSize, iterations, polyN, polySigma } = settings;
  return async (from, to) => {
    const matrices = [from, to].map((picture) => {
      const matrix = new cv.Mat(picture.height, picture.width, cv.CV_8UC1);
      toGrey(picture, matrix.data);
      return matrix;
    });
    const [first, second] = matrices as [Matrix, Matrix];
    const flow = new cv.Mat();
    try {
      cv.calcOpticalFlowFarneback(
        first,
        second,
        flow,
        pyramidScale,
        levels,
        windowSize,
        iterations,
        polyN,
        polySigma,
        0,
      );
      return flow.data32F.slice();
    } catch (error) {
      // OpenCV throws the address of its exception.
      const text = typeof error === 'number' ? cv.exceptionFromPtr(error).msg : error;
      throw internal(text, { reason: 'REWARD_FAILED' });
    } finally {
      for (const matrix of [...matrices, flow]) matrix.delete();
    }
  };
}
