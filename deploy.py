"""Run a policy on an arm, or on its twin: python deploy.py checkpoint=outputs/<run> robot=twin env.tasks=[reach]."""

from tinyvla_scripts.deploy import main

if __name__ == "__main__":
    main()
