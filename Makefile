# make             the notebook executed in place, its figures and numbers in figures/, then the report
# make report      the report alone, from the figures and numbers at hand
# make test        everything that checks the project
# make test-quick  the same in a minute: without what trains, executes the notebook, typesets the report or attacks the grader
# make benchmark   the speed tables
# make submission IDS="111111111 222222222"    the two files that the course asks for, in submission/
NAME = ee048954_hw1
NOTEBOOK = $(NAME).ipynb
VENV = .venv
BIN = $(VENV)/bin
TEX_PACKAGES = latexmk texlive-latex-recommended texlive-latex-extra texlive-science texlive-pictures \
    texlive-fonts-recommended lmodern
TEX_PROGRAMS := $(shell command -v latexmk && command -v pdflatex && command -v bibtex)
NO_TEX = $(filter-out 3,$(words $(TEX_PROGRAMS)))

.PHONY: all notebook report test test-quick benchmark submission clean
.DELETE_ON_ERROR:

all: notebook
	@$(MAKE) --no-print-directory report

$(VENV)/.installed: requirements.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-tests: tests/requirements.txt
$(VENV)/.installed-benchmark: tests/measured/requirements.txt
$(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(filter %.txt,$^)
	touch $@

# (Kernels warn where their transport is not encrypted.)
notebook: $(VENV)/.installed
	$(BIN)/python tests/execute.py $(NOTEBOOK)

# Typeset beside the committed report and moved over it only when it is whole.
report: $(if $(NO_TEX),no-tex,.build/$(NAME).pdf)
	$(if $(NO_TEX),@echo "The committed report/$(NAME).pdf is left as it is.",mv .build/$(NAME).pdf report/)

.PHONY: no-tex tex-packages
tex-packages:
	@echo $(TEX_PACKAGES)
no-tex:
	@echo "LaTeX is not installed here. To build the report: apt-get install --no-install-recommends $(TEX_PACKAGES)"

.PHONY: always
.build/%.pdf: always
	@mkdir -p .build
	@echo "latexmk report/$(NAME).tex"
	@latexmk -cd -pdf -silent -interaction=nonstopmode -halt-on-error -outdir=$(CURDIR)/.build -jobname=$* \
	    $(if $(filter-out $(NAME),$*),-usepretex='\def\submittedby{$(IDS)}') report/$(NAME).tex >.build/$*.out 2>&1 \
	    || { grep -A4 '^!' .build/$*.log || tail -n 20 .build/$*.out; echo "Is a package missing? $(TEX_PACKAGES)"; exit 1; }

SUBMITTED = $(NAME)_$(word 1,$(IDS))_$(word 2,$(IDS))
submission: export GIVEN = $(IDS)
submission:
	@echo "$$GIVEN" | grep -Eqx '[0-9]{9} [0-9]{9}' || { \
	    echo "IDS: expected two numbers of nine digits, as in IDS=\"111111111 222222222\", got \"$$GIVEN\"" >&2; exit 2; }
	$(if $(NO_TEX),@$(MAKE) no-tex; exit 1,@$(MAKE) --no-print-directory .build/$(SUBMITTED).pdf)
	@mkdir -p submission
	mv .build/$(SUBMITTED).pdf submission/
	cp $(NOTEBOOK) submission/$(SUBMITTED).ipynb

# A file of tests stays in one process, and the longest come first.
PYTEST = $(BIN)/python -P -m pytest tests --numprocesses=auto --dist=loadfile --no-loadscope-reorder
test: $(VENV)/.installed-tests
	$(PYTEST)

test-quick: $(VENV)/.installed-tests
	$(PYTEST) -m "not slow"

benchmark: $(VENV)/.installed-benchmark
	PYTHONPATH=tests $(BIN)/python tests/measured/benchmark.py

clean:
	rm -rf $(VENV) .build submission
