export { definitionHash, parseRewardDefinition, rewardDefinitionSchema, weightsHash } from './definition.ts';
export type {
  DefinitionOf,
  FileReference,
  GoldenClip,
  ImagePreprocessing,
  RewardDefinition,
} from './definition.ts';
export type { Reward, RewardInput, RewardModule, RewardResult, RewardValue } from './reward.ts';
export { readRewardDefinition, readRewardDefinitions } from './read-definitions.ts';
export type { LocatedDefinition } from './read-definitions.ts';
export { checkGoldenClips, scoreGoldenClips } from './golden.ts';
export { openReward } from './open-reward.ts';
export type { OpenRewardOptions } from './open-reward.ts';
export { colourStability, motionFloor, objectPersistence } from './pixel-guards.ts';
