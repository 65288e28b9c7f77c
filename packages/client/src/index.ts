/** `@plumb/client`: a typed client of the Reward API, and thin ones of the other services. */
export { connect } from './connect.ts';
export type { Connected, ConnectOptions } from './connect.ts';
export { connectReward } from './reward-client.ts';
export type { RewardClient, ScoreOptions, ScoreStreamOptions } from './reward-client.ts';
export type { RetryPolicy } from './retry.ts';
