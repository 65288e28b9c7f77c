"""Scores a clip through the Reward API from Python: python score.py localhost:50051 clip.gif "a red ball falls"

Needs grpcio and the stubs that docs/clients.md says how to make. Reads the variables PLUMB_CA (PEM file; plain text without
it) and PLUMB_TOKEN_FILE (bearer token).
"""

import os
import sys
from pathlib import Path

import grpc
from grpc_status import rpc_status
from google.rpc import error_details_pb2

from plumb.media.v1 import video_pb2
from plumb.prompts.v1 import prompt_pb2
from plumb.reward.v1 import reward_pb2, reward_pb2_grpc

MEDIA_TYPES = {".gif": "image/gif", ".webp": "image/webp", ".png": "image/apng", ".mp4": "video/mp4", ".webm": "video/webm"}

# Tries again while a service restarts; RetryInfo is for the caller to read (below).
SERVICE_CONFIG = """{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{
  "name": [{"service": "plumb.reward.v1.RewardService"}],
  "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "5s", "backoffMultiplier": 2,
                  "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""


def connect(address: str) -> grpc.Channel:
    options = [("grpc.service_config", SERVICE_CONFIG), ("grpc.max_send_message_length", -1)]
    if ca := os.environ.get("PLUMB_CA"):
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(Path(ca).read_bytes()), options)
    return grpc.insecure_channel(address, options)


def main(address: str, clip: str, prompt: str) -> int:
    token_file = os.environ.get("PLUMB_TOKEN_FILE")
    metadata = [("authorization", f"Bearer {Path(token_file).read_text().strip()}")] if token_file else []
    path = Path(clip)
    video = video_pb2.Video(inline=path.read_bytes(), media_type=MEDIA_TYPES[path.suffix])
    item = reward_pb2.ScoreItem(id=path.name, video=video, prompt=prompt_pb2.Prompt(text=prompt))
    with connect(address) as channel:
        rewards = reward_pb2_grpc.RewardServiceStub(channel)
        names = [reward.name for reward in rewards.ListRewards(reward_pb2.ListRewardsRequest(), metadata=metadata).rewards]
        print("rewards:", ", ".join(names))
        request = reward_pb2.ScoreRequest(items=[item], rewards=["motion_floor", "colour_stability"])
        try:
            response = rewards.Score(request, metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            print(error.code().name, error.details(), file=sys.stderr)
            for detail in getattr(rpc_status.from_call(error), "details", []):
                retry = error_details_pb2.RetryInfo()
                if detail.Unpack(retry):
                    print("try again in", retry.retry_delay.ToTimedelta(), file=sys.stderr)
            return 1
    for outcome in response.items[0].outcomes:
        if outcome.HasField("score"):
            print(f"{outcome.reward:20} {outcome.score.value:.4f}")
        else:
            print(f"{outcome.reward:20} {outcome.error.status.message}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
