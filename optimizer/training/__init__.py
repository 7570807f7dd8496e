"""How models are trained: shared by the stages that do it, finetune and distill."""
