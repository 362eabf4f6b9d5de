# make            the notebook executed in place, its figures and numbers in figures/
# make test       everything that checks the project
# make benchmark  the speed tables
NOTEBOOK = ee048954_hw1.ipynb
VENV = .venv
BIN = $(VENV)/bin

.PHONY: all notebook test benchmark clean
.DELETE_ON_ERROR:

all: notebook

$(VENV)/.installed: requirements.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-%: tests/%.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Executed beside the original and moved over it only when every cell has run.
notebook: $(VENV)/.installed
	$(BIN)/jupyter nbconvert --log-level=WARN --to notebook --execute --ExecutePreprocessor.record_timing=False \
	    --output-dir .build $(NOTEBOOK)
	mv .build/$(NOTEBOOK) $(NOTEBOOK)

test: $(VENV)/.installed-requirements
	$(BIN)/python -m pytest tests

benchmark: $(VENV)/.installed-benchmark-requirements
	$(BIN)/python tests/benchmark.py

clean:
	rm -rf $(VENV) .build
