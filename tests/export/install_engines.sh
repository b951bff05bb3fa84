#!/bin/sh
# Installs the engines whose parsers read our exports into an environment of its own, which sees the packages of the
# project's. Says what could not be installed.    sh tests/export/install_engines.sh PROJECT_PYTHON ENVIRONMENT
set -eu
project=$1 environment=$2
[ -x "$environment/bin/python" ] || "$project" -m venv "$environment"
site=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$project" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/project.pth"
missing=""
add() { # one engine, then what it imports besides torch; none may replace a package of the project
  engine=$1
  if "$environment/bin/python" -m pip install --quiet --no-deps --no-build-isolation "$@" 2> "$environment/$engine.log"
  then echo "installed $engine"
  else missing="$missing $engine"; echo "could not install $engine: $(tail -1 "$environment/$engine.log")"
  fi
}
"$environment/bin/python" -m pip install --quiet setuptools wheel
add megatron-core
add torchtitan tyro docstring-parser shtab typeguard
DS_BUILD_OPS=0 add deepspeed hjson py-cpuinfo msgpack einops
add vllm cloudpickle msgspec cachetools pyzmq pybase64 blake3 cbor2
add kubernetes-validate jsonschema jsonschema-specifications referencing rpds-py attrs importlib_resources
add kubeflow-training kubernetes retrying durationpy python-dateutil six requests requests-oauthlib oauthlib urllib3 \
  certifi charset-normalizer idna websocket-client
[ -z "$missing" ] || echo "not installed:$missing (their tests are skipped)"
