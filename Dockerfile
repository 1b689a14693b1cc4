# One image for every process: docker run IMAGE daemon | worker | serve | db upgrade | ...
# A CPU-only build of torch: --build-arg PIP_EXTRA_INDEX_URL=<the index that holds it>
FROM python:3.11-slim AS build
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL}
RUN python -m venv /opt/cls
WORKDIR /src
COPY requirements.txt ./
RUN /opt/cls/bin/pip install -r requirements.txt
COPY . ./
RUN /opt/cls/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/cls --create-home cls \
    && mkdir -p /etc/cls /var/lib/mlflow && chown cls:cls /var/lib/mlflow
COPY --from=build /opt/cls /opt/cls
ENV PATH=/opt/cls/bin:$PATH PYTHONUNBUFFERED=1 CLS_CONFIG=/etc/cls/cls.toml CLS_HOME=/var/lib/cls
USER cls
WORKDIR /var/lib/cls
VOLUME ["/var/lib/cls"]
ENTRYPOINT ["cls"]
CMD ["--help"]
