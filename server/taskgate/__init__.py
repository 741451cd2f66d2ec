"""taskgate answers one question for Conductor users: what happened to this task?"""
