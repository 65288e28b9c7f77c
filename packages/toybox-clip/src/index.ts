export { captionTokens } from './tokenizer.ts';
export { heldOutCaptions, preferencePair } from './data.ts';
export type { PreferencePair } from './data.ts';
