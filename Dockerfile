# Two images: `operator` (also slmctl and the activator) and `worker` (agent, router and vLLM).
#
#     docker build --target operator -t slm-operator .
#     docker build --target worker -t slm-worker .
#
# Where no registry can be reached, `make images` builds them from this same file on a Debian base
# of its own. docs/images.md has the arguments, the sizes and how to check what was built.

# Each base is a name and the digest of what that name meant when it was tried.
ARG OPERATOR_IMAGE=python:3.11-slim-bookworm
ARG OPERATOR_DIGEST=sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
ARG WORKER_IMAGE=vllm/vllm-openai:v0.23.0
ARG WORKER_DIGEST=sha256:6d8429e38e3747723ca07ee1b17972e09bb9c51c4032b266f24fb1cc3b22ed8f
ARG HAPROXY_IMAGE=haproxy:2.6-trixie
ARG HAPROXY_DIGEST=sha256:27d5ea8c22a63b2f072974b3d15e34816ee7f19fa68d13e37ec1d69e2a5df8d1
# Where Python packages are installed: a shell, pip, and the same Python at the same path as the
# image that they are for. Another one only where that image lacks shell or pip.
ARG OPERATOR_BUILD_IMAGE=${OPERATOR_IMAGE}
ARG OPERATOR_BUILD_DIGEST=${OPERATOR_DIGEST}
ARG WORKER_BUILD_IMAGE=${WORKER_IMAGE}
ARG WORKER_BUILD_DIGEST=${WORKER_DIGEST}

FROM ${HAPROXY_IMAGE}@${HAPROXY_DIGEST} AS haproxy


FROM ${OPERATOR_BUILD_IMAGE}@${OPERATOR_BUILD_DIGEST} AS tools
# The build context may hold the packages' wheels, for a build without a package index:
# --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/context/wheels
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ARG SOURCE_DATE_EPOCH
RUN python3 -m venv --without-pip /tools
RUN --mount=type=bind,target=/context \
    python3 -m pip --python /tools/bin/python install --quiet --no-cache-dir --no-compile \
        --only-binary :all: --require-hashes -r /context/operator/build-requirements.txt


FROM tools AS package
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY operator/slm_operator operator/slm_operator
COPY worker/slm_worker worker/slm_worker
RUN /tools/bin/hatchling build --target wheel --directory /package


# HAProxy with the libraries and the loader that it was linked for, so that it runs on any base.
FROM tools AS router
COPY operator/slm_dev/images/bundle_haproxy.py /bundle_haproxy.py
RUN --mount=type=bind,from=haproxy,target=/haproxy \
    PATH=/tools/bin:$PATH python3 /bundle_haproxy.py /haproxy /router


FROM ${OPERATOR_BUILD_IMAGE}@${OPERATOR_BUILD_DIGEST} AS operator-packages
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
RUN python3 -m venv --without-pip /opt/slm
RUN --mount=type=bind,target=/context \
    python3 -m pip --python /opt/slm/bin/python install --quiet --no-cache-dir --no-compile \
        --only-binary :all: --require-hashes -r /context/operator/requirements.txt
COPY --from=package /package /package
RUN python3 -m pip --python /opt/slm/bin/python install --quiet --no-cache-dir --no-compile \
        --no-index --no-deps --find-links /package slm-operator \
 && PYTHONHASHSEED=0 /opt/slm/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        /opt/slm/lib


FROM ${OPERATOR_IMAGE}@${OPERATOR_DIGEST} AS operator
LABEL org.opencontainers.image.title="slm-operator" \
      org.opencontainers.image.description="Packs small language models on one GPU at the Pareto-optimal replica count" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=operator-packages /opt/slm /opt/slm
ENV PATH=/opt/slm/bin:/usr/local/bin:/usr/bin:/bin
USER 65532:65532
ENTRYPOINT ["/opt/slm/bin/slm-operator"]


FROM ${WORKER_BUILD_IMAGE}@${WORKER_BUILD_DIGEST} AS worker-packages
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
# Apart from vLLM's packages, which the agent starts as a program and never imports.
RUN python3 -m venv --without-pip /opt/slm
RUN --mount=type=bind,target=/context \
    python3 -m pip --python /opt/slm/bin/python install --quiet --no-cache-dir --no-compile \
        --only-binary :all: --require-hashes -r /context/worker/requirements.txt
COPY --from=package /package /package
RUN python3 -m pip --python /opt/slm/bin/python install --quiet --no-cache-dir --no-compile \
        --no-index --no-deps --find-links /package slm-operator \
 && PYTHONHASHSEED=0 /opt/slm/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        /opt/slm/lib


FROM ${WORKER_IMAGE}@${WORKER_DIGEST} AS worker
LABEL org.opencontainers.image.title="slm-worker" \
      org.opencontainers.image.description="A pack: agent, router and the replicas of a small language model on one GPU" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=router /router /
COPY --from=worker-packages /opt/slm /opt/slm
ENV PATH=/opt/slm/bin:/opt/haproxy/bin:$PATH
USER 65532:65532
ENTRYPOINT ["/opt/slm/bin/python", "-m", "slm_worker"]
CMD []
