"""The last keyframe alone: does a video that leads up to a picture run forward in time?"""
