/** Weights of the built-in video model, one safetensors file. */
export const builtInModelMediaType = 'application/vnd.plumb.video-model+safetensors';
/** A pipeline in the diffusers layout: the manifest that names the artifacts that its files are made of. */
export const pipelineMediaType = 'application/vnd.plumb.pipeline+json';
/** A pipeline with adapters on its denoiser: a reference to each of the two. */
export const adaptedPipelineMediaType = 'application/vnd.plumb.adapted-pipeline+json';
/** A model at an endpoint: how it is asked. */
export const remoteModelMediaType = 'application/vnd.plumb.remote-model+json';
/** Adapters of a pipeline's denoiser in the naming of diffusers and PEFT. */
export const peftAdaptersMediaType = 'application/vnd.plumb.peft-adapters+safetensors';
/** Latents of a clip: one float32 tensor `latents` in the layout of the pipeline's denoiser. */
export const latentsMediaType = 'application/vnd.plumb.latents+safetensors';

/** True for models that are trained on latents. */
export function hasLatents(mediaType: string): boolean {
  return mediaType === pipelineMediaType || mediaType === adaptedPipelineMediaType;
}
