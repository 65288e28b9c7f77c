export { heldOutCaptions, preferencePair } from './data.ts';
export type { PreferencePair } from './data.ts';
