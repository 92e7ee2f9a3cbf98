from gdfast.cli import main

main(prog_name="gdfast")
