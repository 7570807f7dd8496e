"""What makes the container image of the server: see docker/cpu.Dockerfile. The modules that run in its build stage, and
in the image itself, need the standard library only.
"""
