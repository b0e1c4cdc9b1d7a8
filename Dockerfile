# The producer and the consumer in one image: `headrace serve`, `headrace consume`, and all other commands but `up`.
FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements requirements
# Everything is pinned by hash: uv, what headrace runs on, and what builds its wheel.
RUN python -m pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
    && uv venv --python "$(command -v python3)" /opt/headrace \
    && uv pip sync --no-cache --python /opt/headrace --require-hashes requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY consumer consumer
COPY headrace headrace
COPY producer producer
RUN uv build --no-cache --wheel --require-hashes --build-constraint requirements/dev.txt --out-dir dist \
    && uv pip install --no-cache --python /opt/headrace --no-deps dist/*.whl

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin headrace
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LOG_FORMAT=json \
    MANAGEMENT_HOST=0.0.0.0 \
    MANAGEMENT_PORT=9464
USER 10001:10001
# headrace.toml may be mounted here.
WORKDIR /etc/headrace
EXPOSE 8000 9464
# Ready means: the broker answers, the bucket takes objects, nothing is drained or halted.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['MANAGEMENT_PORT']}/readyz\", timeout=2)"]
ENTRYPOINT ["headrace"]
CMD ["--help"]
