# A model baked into the image of the server: the build's context is a model repository. `make image MODEL=...` uses it.
ARG SERVER
FROM ${SERVER}
COPY . /models/
