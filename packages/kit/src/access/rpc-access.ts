import type { DescService, MessageShape } from '@bufbuild/protobuf';
import { GeneratorService } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';
import { StudyService } from '@plumb/proto/plumb/loop/v1/study_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Role } from './roles.ts';

/** Who may make a call besides `admin`, and what it costs of the caller's items. */
export interface RpcRule {
  readonly roles: readonly Role[];
  /** Items of one request message; none without it. */
  readonly items?: ((request: unknown) => number) | undefined;
}

type Rules<S extends DescService> = {
  readonly [K in keyof S['method']]: {
    readonly roles: readonly Role[];
    readonly items?: (request: MessageShape<S['method'][K]['input']>) => number;
  };
};

const everyRead = ['read', 'score', 'label', 'train'] as const;
const onlyAdmin = [] as const;

/**
 * The one table of who may call what. A method that is not in it does not compile, and one that is added to the contracts
 * without a rule here is refused to everybody but `admin`.
 */
const table: ReadonlyMap<string, RpcRule> = new Map([
  ...rulesOf(RewardService, {
    score: { roles: ['score'], items: ({ items }) => items.length },
    scoreStream: { roles: ['score'], items: () => 1 },
    listRewards: { roles: ['read', 'score'] },
    getReward: { roles: ['read', 'score'] },
    getShadowReport: { roles: ['read', 'score'] },
    reloadRewards: { roles: onlyAdmin },
  }),
  ...rulesOf(JudgeService, {
    judge: { roles: ['score'], items: () => 1 },
    compare: { roles: ['score'], items: () => 1 },
    listJudges: { roles: ['read', 'score'] },
    listEndpoints: { roles: ['read', 'score'] },
    getSpend: { roles: ['read', 'score', 'train'] },
    // Whoever may start a run may say what it may spend; the loop passes it on.
    setBudget: { roles: ['train'] },
  }),
  ...rulesOf(GeneratorService, {
    generate: { roles: ['train'], items: ({ items }) => items.length },
    listModels: { roles: ['read', 'train'] },
    getModel: { roles: ['read', 'train'] },
  }),
  ...rulesOf(TrainerService, {
    createJob: { roles: ['train'] },
    cancelJob: { roles: ['train'] },
    getJob: { roles: ['read', 'train'] },
    watchJob: { roles: ['read', 'train'] },
    listJobs: { roles: ['read', 'train'] },
  }),
  ...rulesOf(LoopService, {
    createRun: { roles: ['train'] },
    pauseRun: { roles: ['train'] },
    resumeRun: { roles: ['train'] },
    cancelRun: { roles: ['train'] },
    exportRun: { roles: ['read', 'train'] },
    // Lets a model through that the gate held back.
    overrideDecision: { roles: onlyAdmin },
    getRun: { roles: ['read', 'label', 'train'] },
    listRuns: { roles: ['read', 'label', 'train'] },
    watchRun: { roles: ['read', 'label', 'train'] },
    getReport: { roles: ['read', 'train'] },
    listSamples: { roles: ['read', 'label', 'train'] },
    getSample: { roles: ['read', 'train'] },
    getTrace: { roles: ['read', 'train'] },
    watchRuns: { roles: ['read', 'label', 'train'] },
    listDeadLetters: { roles: ['read', 'train'] },
    replayDeadLetter: { roles: ['train'] },
    getCaller: { roles: ['read', 'label', 'train'] },
  }),
  ...rulesOf(StudyService, {
    listStudies: { roles: ['read', 'train'] },
    getStudy: { roles: ['read', 'train'] },
  }),
  ...rulesOf(ModelRegistryService, {
    createModelVersion: { roles: ['train'] },
    getModelVersion: { roles: everyRead },
    listModelVersions: { roles: everyRead },
    // What generators serve changes at once.
    promoteModelVersion: { roles: onlyAdmin },
  }),
  ...rulesOf(LabelService, {
    createLabel: { roles: ['label'], items: () => 1 },
    listLabels: { roles: ['read', 'label', 'train'] },
    createLabelSession: { roles: ['train'] },
    listLabelSessions: { roles: ['read', 'train'] },
    createRaterLink: { roles: ['train'] },
    // Blind: whoever rates must not be able to ask which model made a clip.
    getRatingQueue: { roles: ['read', 'rate', 'label', 'train'] },
    rate: { roles: ['rate', 'label'], items: () => 1 },
    getRaterAgreement: { roles: ['read', 'train'] },
  }),
]);

/** The rule of a method by its path, `/plumb.reward.v1.RewardService/Score`; undefined when there is none. */
export function rpcRule(path: string): RpcRule | undefined {
  return table.get(path);
}

function rulesOf<S extends DescService>(service: S, rules: Rules<S>): [string, RpcRule][] {
  return service.methods.flatMap((method): [string, RpcRule][] => {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- what a method is given is what its rule takes
    const rule = (rules as Readonly<Record<string, RpcRule | undefined>>)[method.localName];
    return rule === undefined ? [] : [[`/${service.typeName}/${method.name}`, rule]];
  });
}
