export type { Attribute, DType, GraphNode, Tensor, TensorData } from './graph.ts';
export { Graph, sizeOf } from './graph.ts';
export { gradients } from './gradients.ts';
export type { OnnxOptions } from './onnx.ts';
export { ONNX_OPSET, toOnnx } from './onnx.ts';
export type { ConvolutionOptions, ConvolutionTransposeOptions } from './operators/convolution.ts';
export { conv, convTranspose, resizeNearest } from './operators/convolution.ts';
export type { Operand } from './operators/elementwise.ts';
export {
  abs,
  add,
  addAll,
  and,
  clip,
  cos,
  div,
  equal,
  erf,
  exp,
  gelu,
  greater,
  greaterOrEqual,
  less,
  lessOrEqual,
  log,
  logSigmoid,
  maximum,
  minimum,
  mul,
  neg,
  not,
  or,
  pow,
  relu,
  sigmoid,
  sign,
  silu,
  sin,
  softplus,
  sqrt,
  square,
  sub,
  tanh,
  where,
} from './operators/elementwise.ts';
export {
  cast,
  concat,
  expand,
  gather,
  gatherNd,
  pad,
  reshape,
  scatterAdd,
  scatterNd,
  slice,
  split,
  stopGradient,
  swapLastAxes,
  transpose,
} from './operators/layout.ts';
export type { GemmOptions } from './operators/matrix.ts';
export { gemm, linear, matMul } from './operators/matrix.ts';
export type { NormalisationOptions } from './operators/normalisation.ts';
export { groupNorm, layerNorm, rmsNorm } from './operators/normalisation.ts';
export type { ReductionOptions } from './operators/reduction.ts';
export { logSoftmax, reduceMax, reduceMean, reduceMin, reduceSum, softmax } from './operators/reduction.ts';
export type {
  AdamWOptions,
  AdamWResult,
  AdamWSchedule,
  AdamWTensors,
  ParameterOptions,
} from './training/optimiser.ts';
export { adamW, clipByGlobalNorm, clipFactor, ema, globalNorm } from './training/optimiser.ts';
export type {
  FeedSpec,
  OptimiserOptions,
  ParameterSpec,
  TrainableParameter,
  TrainingProgram,
  TrainingStepOptions,
} from './training/program.ts';
export { buildTrainingStep } from './training/program.ts';
export type { LossScaling, Precision } from './training/precision.ts';
export type { TrainingState } from './training/state.ts';
export { checkState, initialTrainingState } from './training/state.ts';
