/** Judges by name: which endpoint and model is asked, with which rubric, frames and settings. */

import { z } from 'zod';
import { endpointSchema } from '@plumb/endpoint';
import type { EndpointSettings } from '@plumb/endpoint';
import { contentHash } from '@plumb/kit/content-hash';
import type { Calibration } from './calibration.ts';
import { categories, judgeModes } from './rubric.ts';
import type { Category, Rubric } from './rubric.ts';

const judgeSchema = z.strictObject({
  /** Changed by people whenever verdicts before and after should not be mixed, for example when the endpoint changes what a model name means. */
  version: z.string().min(1),
  /** Name of an endpoint of this file. */
  endpoint: z.string(),
  /** Model name as the endpoint knows it. */
  model: z.string().min(1),
  mode: z.enum(judgeModes),
  /** Rubric file, relative to this file. */
  rubric: z.string().min(1),
  /** Rubric files for prompts of single categories, in place of the general one. */
  rubrics: z.partialRecord(z.enum(categories), z.string().min(1)).default({}),
  /** Answers that are taken for one verdict; the confidence is the share that accepts. */
  votes: z.int().min(1).max(25).default(1),
  /** P(accept) from which a clip is accepted, where there is a P(accept). */
  threshold: z.number().min(0).max(1).default(0.5),
  /** Calibration file that `plumb judge calibrate` wrote for this judge, relative to this file. */
  calibration: z.string().min(1).optional(),
  /** What tokens cost, in the currency of this file. Absent: nothing. */
  price: z
    .strictObject({
      inputPerMillionTokens: z.number().min(0),
      outputPerMillionTokens: z.number().min(0),
    })
    .optional(),
  /** Training signals may not use a held-out judge. */
  heldOut: z.boolean().default(false),
  /** Which frames are sent. A clip with fewer frames sends all of them. */
  frames: z.strictObject({
    count: z.int().min(1).max(256),
    /** uniform spreads them evenly over time, motion evenly over what changes in the picture. */
    sampling: z.enum(['uniform', 'motion']).default('uniform'),
  }),
  /** How frames are sent. */
  image: z
    .strictObject({
      /** sequence: one picture each. grid: all in one picture. */
      layout: z.enum(['sequence', 'grid']).default('sequence'),
      /** Frames beside each other in a grid; 1 is a film strip. */
      columns: z.int().min(1).max(16).default(4),
      /** Whole factor by which frames grow; pixels are repeated, never interpolated. */
      scale: z.int().min(1).max(32).default(1),
      /** Larger frames are made smaller until their longer side has so many pixels. Absent: native resolution. */
      longestSide: z.int().min(16).max(8192).optional(),
      /** png is lossless; jpeg and webp are smaller. */
      format: z.enum(['png', 'jpeg', 'webp']).default('png'),
      /** For jpeg and webp. */
      quality: z.int().min(1).max(100).default(85),
      /** What a picture costs, for the estimate before a call. See the endpoint's documentation. */
      tokens: z
        .strictObject({
          perPicture: z.number().min(0).default(85),
          /** Absent: pictures of all sizes cost the same. */
          pixelsPerToken: z.number().min(1).optional(),
        })
        .prefault({}),
    })
    .prefault({}),
  /** How the endpoint makes its answer keep the shape. none relies on the rubric's words and the strict parser alone. */
  structuredOutput: z.enum(['json-schema', 'json-object', 'none']).default('json-schema'),
  sampling: z
    .strictObject({
      /** 0 is the likeliest answer. Absent: the endpoint's default, for models that refuse the parameter. */
      temperature: z.number().min(0).max(2).optional(),
      seed: z.int().optional(),
      maxOutputTokens: z.int().min(16).default(400),
      /** Name of that limit in the request: max_tokens for servers that do not know the newer one, such as Ollama. */
      tokenLimitParameter: z.enum(['max_completion_tokens', 'max_tokens']).default('max_completion_tokens'),
      /** Ask for token log-probabilities, from which P(accept) is computed (mode binary). */
      logProbabilities: z.boolean().default(false),
    })
    .prefault({}),
});

const panelSchema = z.strictObject({
  /** Changed by people, as a judge's. */
  version: z.string().min(1),
  /** Names of judges of this file, of mode binary or grade. */
  judges: z.array(z.string()).min(2).max(9),
  /** all: every member accepts. majority: more than half do. mean: the mean of their P(accept) reaches the threshold. */
  rule: z.enum(['all', 'majority', 'mean']),
  /** For the rule mean. */
  threshold: z.number().min(0).max(1).default(0.5),
  /** Training signals may not use a held-out panel. A panel with a held-out member is one. */
  heldOut: z.boolean().default(false),
});

const judgeName = z.string().regex(/^[a-z][a-z0-9-]*$/);

/** The judges file. Unknown keys are errors, so that a misspelt setting (or an API key) does not pass unseen. */
export const judgesFileSchema = z
  .strictObject({
    /** ISO 4217 code of all prices and budgets. */
    currency: z
      .string()
      .regex(/^[A-Z]{3}$/)
      .default('USD'),
    /** What a run may spend when nobody has set its budget. Absent: no limit. */
    budget: z
      .strictObject({ tokens: z.int().min(0).optional(), cost: z.number().min(0).optional() })
      .default({}),
    /**
     * Judge services that run with this file. Limits of endpoints are kept by each of them alone: each gets its share of
     * concurrency, requests and tokens a minute.
     */
    replicas: z.int().min(1).max(1000).default(1),
    endpoints: z.record(judgeName, endpointSchema),
    judges: z.record(judgeName, judgeSchema),
    panels: z.record(judgeName, panelSchema).default({}),
  })
  .superRefine((file, context) => {
    const wrong = (path: readonly string[], message: string): void => {
      context.addIssue({ code: 'custom', path: [...path], message });
    };
    for (const [name, endpoint] of Object.entries(file.endpoints)) {
      for (const limit of ['concurrency', 'requestsPerMinute', 'tokensPerMinute'] as const) {
        const value = endpoint[limit];
        if (value !== undefined && value < file.replicas) {
          wrong(
            ['endpoints', name, limit],
            `is ${value}, which ${file.replicas} replicas cannot share; raise it, or run fewer (replicas)`,
          );
        }
      }
    }
    if (Object.keys(file.judges).length === 0) wrong(['judges'], 'name at least one judge');
    for (const [name, judge] of Object.entries(file.judges)) {
      const at = ['judges', name];
      if (file.endpoints[judge.endpoint] === undefined) {
        const known = Object.keys(file.endpoints).join(', ');
        wrong([...at, 'endpoint'], `no endpoint is named '${judge.endpoint}'; known are: ${known}`);
      }
      if (judge.sampling.logProbabilities && judge.mode !== 'binary') {
        wrong([...at, 'sampling', 'logProbabilities'], 'only a binary judge has a P(accept); leave it out');
      }
      if (judge.votes > 1 && judge.mode === 'compare') {
        wrong([...at, 'votes'], 'a judge that compares asks twice as it is; leave it out');
      }
      if (judge.votes > 1 && judge.sampling.temperature === 0) {
        wrong([...at, 'votes'], 'at temperature 0 all votes are the same; set sampling.temperature above 0');
      }
      if (judge.calibration !== undefined && judge.mode === 'compare') {
        wrong([...at, 'calibration'], 'a judge that compares has no P(accept); leave it out');
      }
    }
    for (const [name, panel] of Object.entries(file.panels)) {
      const at = ['panels', name];
      if (file.judges[name] !== undefined) wrong(at, 'is also the name of a judge; choose another');
      for (const [index, member] of panel.judges.entries()) {
        const judge = file.judges[member];
        const place = [...at, 'judges', String(index)];
        if (judge === undefined) wrong(place, `no judge is named '${member}'`);
        else if (judge.mode === 'compare') wrong(place, `'${member}' compares clips and accepts none`);
        if (panel.judges.indexOf(member) < index) wrong(place, `'${member}' is named twice`);
      }
    }
  });

export type JudgesFile = z.output<typeof judgesFileSchema>;
export type EndpointDefinition = EndpointSettings;
export type JudgeDefinition = JudgesFile['judges'][string];
export type PanelDefinition = JudgesFile['panels'][string];

/** The limits of an endpoint that are left for one of so many judge services. */
export function shareOf(endpoint: EndpointDefinition, replicas: number): EndpointDefinition {
  const { concurrency, requestsPerMinute, tokensPerMinute } = endpoint;
  return {
    ...endpoint,
    concurrency: Math.floor(concurrency / replicas),
    ...(requestsPerMinute === undefined
      ? {}
      : { requestsPerMinute: Math.floor(requestsPerMinute / replicas) }),
    ...(tokensPerMinute === undefined ? {} : { tokensPerMinute: Math.floor(tokensPerMinute / replicas) }),
  };
}

/** What a judge is made of besides its definition. */
export interface JudgeParts {
  readonly rubric: Rubric;
  /** Rubrics for single categories. */
  readonly rubrics?: Readonly<Partial<Record<Category, Rubric>>>;
  readonly calibration?: Calibration | undefined;
}

/** A judge that is ready to be asked. */
export interface Judge {
  readonly name: string;
  readonly definition: JudgeDefinition;
  readonly rubric: Rubric;
  readonly rubrics: Readonly<Partial<Record<Category, Rubric>>>;
  readonly calibration: Calibration | undefined;
  /** SHA-256 over everything that an answer of the model depends on besides the clip and the prompt. */
  readonly askHash: string;
  /** SHA-256 over everything that a verdict depends on: also the votes, the threshold and the calibration. */
  readonly hash: string;
}

/** Several judges that decide together. */
export interface Panel {
  readonly name: string;
  readonly definition: PanelDefinition;
  readonly members: readonly Judge[];
  readonly heldOut: boolean;
  /** SHA-256 over the rule and the members' hashes. */
  readonly hash: string;
}

/** A judge with its hashes. */
export function defineJudge(name: string, definition: JudgeDefinition, parts: JudgeParts): Judge {
  const { rubric, rubrics = {}, calibration } = parts;
  // The endpoint's address is left out: the same model behind another port is the same judge. Where the same name
  // means another model, `version` is there to be changed. The file names of rubrics are left out for their content. How
  // answers become a verdict is left out of the first hash, so that a new calibration costs no call.
  const { version, model, mode, frames, structuredOutput, sampling } = definition;
  const { tokens: _, ...image } = definition.image;
  const hashes = Object.fromEntries(Object.entries(rubrics).map(([category, one]) => [category, one.hash]));
  const asked = { version, model, mode, frames, image, structuredOutput, sampling, rubric: rubric.hash };
  const askHash = contentHash({ ...asked, rubrics: hashes });
  const { votes, threshold } = definition;
  const hash = contentHash({ ask: askHash, votes, threshold, calibration: calibration?.hash ?? '' });
  return { name, definition, rubric, rubrics, calibration, askHash, hash };
}

/** A panel with its hash. */
export function definePanel(name: string, definition: PanelDefinition, members: readonly Judge[]): Panel {
  const { version, rule, threshold } = definition;
  const hash = contentHash({ version, rule, threshold, members: members.map((member) => member.hash) });
  const heldOut = definition.heldOut || members.some((member) => member.definition.heldOut);
  return { name, definition, members, heldOut, hash };
}

/** The rubric for a prompt of a category. */
export function rubricFor(judge: Judge, category: Category | undefined): Rubric {
  return (category === undefined ? undefined : judge.rubrics[category]) ?? judge.rubric;
}
