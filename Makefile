# make             the notebook executed in place, its figures and numbers in figures/, then the report
# make report      the report alone, from the figures and numbers at hand
# make test        everything that checks the project, but the whole execution
# make test-quick  the same without what trains, executes the notebook or typesets the report
# make test-grader the grader: all styles, mistakes and attacks
# make benchmark   the speed tables
# make submission IDS="111111111 222222222"    the two files that the course asks for, in submission/
# (All paths are relative: the project may lie in a folder of any name.)
NAME = ee048954_hw1
VENV = .venv
PYTHON = $(VENV)/bin/python
PIP = $(PYTHON) -m pip install --quiet --disable-pip-version-check
COLAB = .build/colab
TEX_PACKAGES = latexmk texlive-latex-recommended texlive-latex-extra texlive-science texlive-pictures \
    texlive-fonts-recommended lmodern
TEX_PROGRAMS := $(shell command -v latexmk && command -v pdflatex && command -v bibtex)
NO_TEX = $(filter-out 3,$(words $(TEX_PROGRAMS)))

.PHONY: all notebook report test test-quick test-grader benchmark submission clean always no-tex tex-packages
.DELETE_ON_ERROR:

all: notebook
	@$(MAKE) --no-print-directory report

$(VENV)/.installed: requirements.txt
	python3 -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.installed-tests: tests/requirements.txt $(VENV)/.installed
	$(PIP) -r $<
	touch $@

# Where there are none for this Python, the tests that need them are skipped.
$(COLAB): tests/requirements-colab.txt $(VENV)/.installed-tests
	@rm -rf $@
	$(PIP) --no-deps --only-binary :all: --target $@ -r $< || rm -rf $@

notebook: $(VENV)/.installed
	$(PYTHON) tests/execute.py $(NAME).ipynb

# Typeset beside the committed report and moved over it only when it is whole.
report: $(if $(NO_TEX),no-tex,.build/$(NAME).pdf)
	$(if $(NO_TEX),@echo "The committed report/$(NAME).pdf is left as it is.",mv .build/$(NAME).pdf report/)

tex-packages:
	@echo $(TEX_PACKAGES)
no-tex:
	@echo "LaTeX is not installed here. To build the report: apt-get install --no-install-recommends $(TEX_PACKAGES)"

.build/%.pdf: always
	@mkdir -p .build
	@echo "latexmk report/$(NAME).tex"
	@latexmk -cd -pdf -silent -interaction=nonstopmode -halt-on-error -outdir=../.build -jobname=$* \
	    $(if $(filter-out $(NAME),$*),-usepretex='\def\submittedby{$(subst _, ,$(*:$(NAME)_%=%))}') \
	    report/$(NAME).tex >.build/$*.out 2>&1 \
	    || { grep -A4 '^!' .build/$*.log || tail -n 20 .build/$*.out; \
	         echo "Is a package missing? $(TEX_PACKAGES)"; exit 1; }

# What is given goes to the shell as it is, in its environment: what make expands, it may run.
MAKEOVERRIDES =
unexport IDS
submission: export GIVEN = $(value IDS)
submission:
	@printf '%s\n' "$$GIVEN" | grep -Eqx '[0-9]{9} [0-9]{9}' || { \
	    printf 'IDS: expected two numbers of nine digits, as in IDS="111111111 222222222", got "%s"\n' "$$GIVEN" >&2; \
	    exit 2; }
	@name=$(NAME)_$${GIVEN% *}_$${GIVEN#* } && mkdir -p submission && \
	    $(MAKE) --no-print-directory $(if $(NO_TEX),no-tex && exit 1,.build/$$name.pdf) && \
	    mv .build/$$name.pdf submission/ && cp $(NAME).ipynb submission/$$name.ipynb

# A file of tests stays in one process.
PYTEST = $(PYTHON) -P -m pytest tests --numprocesses=auto --dist=loadfile --no-loadscope-reorder
test: $(COLAB)
	$(PYTEST) -m "not thorough"

test-quick: $(VENV)/.installed-tests
	$(PYTEST) -m "not slow"

test-grader: $(VENV)/.installed-tests
	$(PYTHON) -P -m pytest tests/grader

benchmark: $(VENV)/.installed
	TQDM_DISABLE=1 $(PYTHON) tests/benchmark.py

clean:
	rm -rf $(VENV) .build submission
